"""Giving out a run's weights: timm and the authors' model compute what our tasks do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from authors_nepa import AuthorsNepa
from finished_runs import export, finished_run, pictures_of, timm_model
from PIL import Image
from small_tasks import config_of
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor

from nepa_scale.config import overrides
from nepa_scale.data.transforms import classify_eval, normalise, pretrain_eval
from nepa_scale.models.objective import next_embedding_loss
from nepa_scale.tasks.classify import Classify
from nepa_scale.tasks.pretrain import Pretrain
from nepa_scale.weights.__main__ import main

IMAGES = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(3))


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


def timm_transform(model: torch.nn.Module) -> Callable[[Image.Image], Tensor]:
    """What timm makes of the folder's evaluation settings."""
    transform: Callable[[Image.Image], Tensor] = create_transform(**resolve_model_data_config(model))
    return transform


CROPS = [(1.0, "center"), (0.875, "center"), (0.6, "center"), (1.0, "squash"), (0.95, "squash"), (0.37, "squash")]


@pytest.mark.parametrize(("crop_pct", "crop_mode"), CROPS)
@torch.no_grad()
def test_timms_own_transform_gives_the_runs_scores(
    digits_root: Path, tmp_path: Path, crop_pct: float, crop_mode: str
) -> None:
    """timm, asked for the folder's evaluation transform, scores every validation image as the run does."""
    words = ["init=scratch", f"classify.crop_pct={crop_pct}", f"classify.crop_mode={crop_mode}"]
    task = Classify(config_of(digits_root, "classify", *words, "classify.image_size=32"), None)
    run = finished_run(task, tmp_path / "run")
    model = timm_model(export(run, tmp_path / "out", "timm", "--task", "classify"))
    transform = timm_transform(model)
    images = torch.stack([transform(picture) for picture in pictures_of(task)])
    own = torch.stack([task.eval_data[0, index][0] for index in range(len(task.eval_data))])
    assert torch.equal(images, own)
    torch.testing.assert_close(model(images), task.module.logits(own), rtol=0, atol=1e-6)  # type: ignore[operator]
    oblong = np.random.default_rng(0).integers(0, 256, (61, 90, 3), dtype=np.uint8)
    expected = classify_eval(32, crop_pct=crop_pct, crop_mode=crop_mode)(oblong)
    assert torch.equal(transform(Image.fromarray(oblong)), expected)


@torch.no_grad()
def test_timms_own_transform_gives_the_pre_trained_runs_loss(digits_root: Path, tmp_path: Path) -> None:
    """Pre-training evaluates the whole shorter side, bilinear, and its export says so: pixels differ by rounding."""
    task = Pretrain(config_of(digits_root, "pretrain", "pretrain.image_size=32"))
    model = timm_model(export(finished_run(task, tmp_path / "run"), tmp_path / "out", "timm"))
    transform = timm_transform(model)
    for picture in pictures_of(task)[:4]:
        wide = picture.resize((90, 61))
        own = normalise(pretrain_eval(32)(np.array(wide)))
        assert (transform(wide) - own).abs().max() < 2.1 / 127.5
        z, z_hat = model.next_embeddings(torch.stack([transform(wide), own]))  # type: ignore[operator]
        theirs, ours = (next_embedding_loss(z[part], z_hat[part]).item() for part in (slice(1), slice(1, 2)))
        assert theirs == pytest.approx(ours, abs=5e-3)


def settings_of(folder: Path) -> dict[str, Any]:
    """What an exported folder says of evaluation, in timm's words."""
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    keys = ("crop_pct", "crop_mode", "interpolation", "mean", "std")
    return {key: content["pretrained_cfg"][key] for key in keys} | {"label_names": content.get("label_names")}


@pytest.mark.parametrize(("crop_pct", "crop_mode"), CROPS)
def test_evaluation_settings_survive_every_way_round(
    digits_root: Path, tmp_path: Path, crop_pct: float, crop_mode: str
) -> None:
    """Run, moving average, timm's layout, the authors' layout and an import of it say the same of evaluation."""
    words = [f"classify.crop_pct={crop_pct}", f"classify.crop_mode={crop_mode}", "classify.ema_decay=0.9"]
    task = Classify(config_of(digits_root, "classify", "init=scratch", *words), None)
    run = finished_run(task, tmp_path / "run")
    (run / "classify" / "model_ema.safetensors").write_bytes((run / "classify" / "model.safetensors").read_bytes())
    ours = export(run, tmp_path / "ours", "timm", "--task", "classify")
    average = export(run, tmp_path / "average", "timm", "--task", "classify", "--ema")
    theirs = export(ours, tmp_path / "theirs", "authors")
    assert main(["import", str(theirs), str(tmp_path / "back")]) == 0
    expected = {"crop_pct": crop_pct, "crop_mode": crop_mode, "interpolation": "bicubic", "mean": [0.5] * 3}
    expected |= {"std": [0.5] * 3, "label_names": [str(digit) for digit in range(10)]}
    assert [settings_of(folder) for folder in (ours, average, tmp_path / "back")] == [expected] * 3


def test_names_of_classes_are_those_of_the_training(digits_root: Path, tmp_path: Path) -> None:
    """What the task noted of its data set counts; without it and without the data set there are no names."""
    task = Classify(config_of(digits_root, "classify", "init=scratch"), None)
    run = finished_run(task, tmp_path / "run")
    noted = run / "classify" / "data.json"
    noted.write_text(json.dumps({"class_names": [f"digit {digit}" for digit in range(10)]}))
    named = export(run, tmp_path / "named", "timm", "--task", "classify")
    assert settings_of(named)["label_names"] == [f"digit {digit}" for digit in range(10)]
    task.config.data.root = str(tmp_path / "nowhere")
    overrides.save(task.config, run / "config.yaml")
    noted.write_text(json.dumps({"class_names": 10}))
    assert settings_of(export(run, tmp_path / "a", "timm", "--task", "classify"))["label_names"] is None
    noted.unlink()
    assert settings_of(export(run, tmp_path / "b", "timm", "--task", "classify"))["label_names"] is None


@pytest.mark.parametrize("pool", ["mean", "last"])
@torch.no_grad()
def test_features_of_a_classifier_are_those_that_its_head_reads(digits_root: Path, tmp_path: Path, pool: str) -> None:
    """With ``num_classes=0``, as features are taken in timm, the norm before the head stays and is the trained one."""
    task = Classify(config_of(digits_root, "classify", "init=scratch", f"classify.pool={pool}"), None)
    ours = export(finished_run(task, tmp_path / "run"), tmp_path / "ours", "timm", "--task", "classify")
    features = timm.create_model(f"local-dir:{ours}", pretrained=True, num_classes=0).eval()(IMAGES)
    scores = task.module.head(features)  # type: ignore[operator]
    torch.testing.assert_close(scores, task.module.logits(IMAGES), rtol=0, atol=1e-5)  # type: ignore[operator]


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.25])
def test_stochastic_depth_goes_along(digits_root: Path, tmp_path: Path, rate: float) -> None:
    """The rate that a classifier was trained with stands in either layout, and an import and timm take it over."""
    words = ["init=scratch", f"classify.drop_path_rate={rate}"]
    run = finished_run(Classify(config_of(digits_root, "classify", *words), None), tmp_path / "run")
    ours = export(run, tmp_path / "ours", "timm", "--task", "classify")
    theirs = export(run, tmp_path / "theirs", "authors", "--task", "classify")
    assert json.loads((theirs / "config.json").read_text())["drop_path_prob"] == rate
    assert main(["import", str(theirs), str(tmp_path / "back")]) == 0
    assert (tmp_path / "back" / "config.json").read_text() == (ours / "config.json").read_text()
    last = timm_model(ours).blocks[-1].drop_path1  # type: ignore[index, union-attr]
    assert getattr(last, "drop_prob", 0.0) == pytest.approx(rate)


def test_older_timm_folders_are_read(digits_root: Path, tmp_path: Path) -> None:
    """What a folder of before does not say is what timm takes it to be."""
    run = finished_run(Pretrain(config_of(digits_root, "pretrain")), tmp_path / "run")
    ours = export(run, tmp_path / "ours", "timm")
    content = json.loads((ours / "config.json").read_text())
    del content["model_args"]["drop_path_rate"], content["model_args"]["use_fc_norm"]
    del content["pretrained_cfg"]["crop_pct"], content["pretrained_cfg"]["crop_mode"]
    (ours / "config.json").write_text(json.dumps(content))
    again = export(ours, tmp_path / "again", "timm")
    assert resolve_model_data_config(timm_model(again)) == resolve_model_data_config(timm_model(ours))
    assert settings_of(again)["crop_pct"] == 0.875
