"""Giving out a run's weights: timm and the authors' model compute what our tasks do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from authors_nepa import AuthorsNepa
from small_tasks import config_of, with_random_weights
from torch import Tensor

from nepa_scale import overrides
from nepa_scale.tasks.classify import Classify
from nepa_scale.tasks.pretrain import Pretrain
from nepa_scale.tasks.task import Task
from nepa_scale.weights.__main__ import main

IMAGES = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(3))


def finished_run(task: Task, run_dir: Path, *, name: str = "model.safetensors") -> Path:
    """A run folder as ``task`` leaves it when it ends with random weights."""
    with_random_weights(task)
    overrides.save(task.config, run_dir / "config.yaml")
    (run_dir / task.name).mkdir()
    tensors = task.exported(dict(task.module.state_dict()))
    safetensors.torch.save_file({key: value.clone() for key, value in tensors.items()}, run_dir / task.name / name)
    task.module.eval()
    return run_dir


def export(source: Path, out: Path, layout: str, *flags: str) -> Path:
    assert main(["export", str(source), str(out), "--layout", layout, *flags]) == 0
    return out


def timm_model(folder: Path) -> torch.nn.Module:
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("pool", ["mean", "last"])
@pytest.mark.parametrize("words", [[], ["model.mlp=swiglu", "classify.qk_norm=weight"], ["model.qk_norm=none"]])
@torch.no_grad()
def test_exported_classifier_gives_the_same_scores(
    digits_root: Path, tmp_path: Path, attention: str, pool: str, words: list[str]
) -> None:
    """A fine-tuned model scores images alike as our module, as timm's model, and as the authors' from its export."""
    words = ["init=scratch", f"classify.attention={attention}", f"classify.pool={pool}", *words]
    task = Classify(config_of(digits_root, "classify", *words), None)
    run = finished_run(task, tmp_path / "run")
    scores = task.module.logits(IMAGES)  # type: ignore[operator]
    ours = export(run, tmp_path / "ours", "timm", "--task", "classify")
    torch.testing.assert_close(timm_model(ours)(IMAGES), scores, rtol=0, atol=1e-6)
    theirs = export(run, tmp_path / "theirs", "authors", "--task", "classify")
    assert (scores - authors_model(theirs)(IMAGES)).abs().max() < 1e-5


def authors_model(folder: Path) -> AuthorsNepa:
    """The authors' model as its own files describe it; every tensor must have its place."""
    model = AuthorsNepa(json.loads((folder / "config.json").read_text()))
    model.load_state_dict(tensors_of(folder))
    return model


@pytest.mark.parametrize("words", [[], ["model.mlp=swiglu", "model.qk_norm=weight"], ["model.layer_scale=false"]])
@torch.no_grad()
def test_exported_backbone_gives_the_same_tokens(digits_root: Path, tmp_path: Path, words: list[str]) -> None:
    """Pre-trained weights keep their bits on every way round, and give the same predictions everywhere."""
    task = Pretrain(config_of(digits_root, "pretrain", *words))
    run = finished_run(task, tmp_path / "run")
    tokens = task.backbone.forward_features(IMAGES)
    ours = export(run, tmp_path / "ours", "timm")
    theirs = export(run, tmp_path / "theirs", "authors")
    again = export(ours, tmp_path / "again", "timm")
    assert main(["import", str(theirs), str(tmp_path / "back")]) == 0
    own = tensors_of(run / "pretrain")
    assert all(equal(own, tensors_of(folder)) for folder in (ours, again, tmp_path / "back"))
    assert equal(tensors_of(theirs), tensors_of(export(ours, tmp_path / "theirs again", "authors")))
    configs = [(folder / "config.json").read_text() for folder in (ours, again, tmp_path / "back")]
    assert configs[0] == configs[1] == configs[2]
    torch.testing.assert_close(timm_model(ours)(IMAGES), tokens, rtol=0, atol=1e-6)
    assert (authors_model(theirs)(IMAGES) - tokens).abs().max() < 1e-5


@pytest.mark.parametrize("words", [["model.pos_embed=absolute"], ["model.class_token=false"]])
@torch.no_grad()
def test_ablated_models_fit_timms_layout_alone(
    digits_root: Path, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The authors' layout has no place for absolute positions, or for no class token, and the setting is named."""
    task = Pretrain(config_of(digits_root, "pretrain", *words))
    run = finished_run(task, tmp_path / "run")
    model = timm_model(export(run, tmp_path / "ours", "timm"))
    torch.testing.assert_close(model(IMAGES), task.backbone.forward_features(IMAGES), rtol=0, atol=1e-6)
    assert main(["export", str(run), str(tmp_path / "theirs"), "--layout", "authors"]) == 2
    assert f"the authors' layout has no place for a model with {words[0]}" in capsys.readouterr().err
    assert not (tmp_path / "theirs").exists()


def test_moving_average_of_a_run(digits_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--ema`` gives out the other file; where a run keeps none, the setting that decides it is named."""
    averaged = Pretrain(config_of(digits_root, "pretrain", "pretrain.ema_decay=0.9"))
    run = finished_run(averaged, tmp_path / "averaged", name="model_ema.safetensors")
    out = export(run, tmp_path / "out", "timm", "--ema")
    assert equal(tensors_of(out), safetensors.torch.load_file(run / "pretrain" / "model_ema.safetensors"))
    plain = finished_run(Pretrain(config_of(digits_root, "pretrain")), tmp_path / "plain")
    assert main(["export", str(plain), str(tmp_path / "none"), "--layout", "timm", "--ema"]) == 2
    assert "pretrain.ema_decay=0 keeps no moving average" in capsys.readouterr().err


def test_shared_pre_training_is_found(digits_root: Path, tmp_path: Path) -> None:
    """A run whose pre-training lies in another gives out that one's weights."""
    first = finished_run(Pretrain(config_of(digits_root, "pretrain")), tmp_path / "first")
    sharing = config_of(digits_root, "pretrain", f"pretrain_dir={first / 'pretrain'}", "classify.pool=last")
    overrides.save(sharing, tmp_path / "second" / "config.yaml")
    out = export(tmp_path / "second", tmp_path / "out", "timm")
    assert equal(tensors_of(out), tensors_of(first / "pretrain"))


@pytest.mark.parametrize(
    ("words", "flags", "complaint"),
    [
        ([], [], "task=pretrain has not finished"),
        ([], ["--task", "classify"], "task=classify has not finished"),
        (["init=scratch", "task=classify"], [], "init=scratch, so it has no pre-training of its own"),
    ],
)
def test_unfinished_run_has_nothing_to_give(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], flags: list[str], complaint: str
) -> None:
    """What has not been trained is named, with what is there instead."""
    overrides.save(overrides.parse(["model=femto", *words]), tmp_path / "run" / "config.yaml")
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out"), "--layout", "timm", *flags]) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
