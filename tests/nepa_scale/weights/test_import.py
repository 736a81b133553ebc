"""Bringing in the authors' weights: against their model restated, and against the counts of the released files."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from authors_nepa import AuthorsNepa, config_of
from timm.data import resolve_model_data_config
from torch import Tensor

from nepa_scale.config.ladder import architecture
from nepa_scale.weights.__main__ import main
from nepa_scale.weights.authors_layout import to_authors
from nepa_scale.weights.convert import skeleton
from nepa_scale.weights.tensor_files import check_tensors
from nepa_scale.weights.timm_layout import Description

BASE_LIKE: dict[str, Any] = {"width": 48, "depth": 3, "heads": 3}
LARGE_LIKE: dict[str, Any] = {"width": 64, "depth": 4, "heads": 2}
PRETRAINED: dict[str, Any] = {}
FINETUNED: dict[str, Any] = {"labels": 7, "causal": False}
GELU: dict[str, Any] = {}
SWIGLU: dict[str, Any] = {"gated": True, "hidden": 42}


def brought_in(source: Path, out: Path, *flags: str) -> torch.nn.Module:
    """The timm model of an import."""
    assert main(["import", str(source), str(out), *flags]) == 0
    return timm.create_model(f"local-dir:{out}", pretrained=True).eval()


def images(side: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(5))


def distance(model: torch.nn.Module, oracle: AuthorsNepa, side: int, count: int = 2) -> float:
    """Largest absolute difference of the outputs; their entries are of the order of one."""
    with torch.no_grad():
        return (model(images(side, count)) - oracle(images(side, count))).abs().max().item()


@pytest.mark.parametrize(
    ("size", "kind", "mlp", "qk_norm"),
    list(product((BASE_LIKE, LARGE_LIKE), (PRETRAINED, FINETUNED), (GELU, SWIGLU), ("none", "plain", "weight"))),
)
def test_imported_model_computes_what_the_authors_does(
    tmp_path: Path, size: dict[str, Any], kind: dict[str, Any], mlp: dict[str, Any], qk_norm: str
) -> None:
    """Random weights of every configuration, saved as the authors do, give the same outputs to 1e-5."""
    oracle = AuthorsNepa(config_of(**size, **kind, **mlp, qk_norm=qk_norm))
    model = brought_in(oracle.save(tmp_path / "theirs"), tmp_path / "ours")
    assert distance(model, oracle, 16) < 1e-5


@pytest.mark.parametrize(
    "settings",
    [{"labels": 7, "pool": "last"}, {"labels": 7, "pool": "last", "causal": False}, {"layer_scale": None}],
    ids=["last token", "last token, bidirectional", "no LayerScale"],
)
def test_rarer_models_compute_the_same(tmp_path: Path, settings: dict[str, Any]) -> None:
    """The paper's head, a causal classifier, and a model without LayerScale come in too."""
    oracle = AuthorsNepa(config_of(**settings))
    model = brought_in(oracle.save(tmp_path / "theirs"), tmp_path / "ours")
    assert distance(model, oracle, 16) < 1e-5


@pytest.mark.slow(seconds=9)
def test_base_size_computes_the_same(tmp_path: Path) -> None:
    """At the size of the released base classifier, on one image of 224 pixels."""
    released = config_of(
        width=768, depth=12, heads=12, image=224, patch=14, qk_norm="weight", labels=1000, causal=False
    )
    oracle = AuthorsNepa(released)
    model = brought_in(oracle.save(tmp_path / "theirs"), tmp_path / "ours")
    assert distance(model, oracle, 224, count=1) < 1e-5


@pytest.mark.parametrize(
    ("kind", "mlp", "qk_norm", "layer_scale"),
    list(product((PRETRAINED, FINETUNED), (GELU, SWIGLU), ("none", "plain", "weight"), (1e-5, None))),
)
def test_there_and_back_is_exact(
    tmp_path: Path, kind: dict[str, Any], mlp: dict[str, Any], qk_norm: str, layer_scale: float | None
) -> None:
    """authors -> timm -> authors gives every tensor bit by bit, and a configuration that says the same."""
    config = config_of(**kind, **mlp, qk_norm=qk_norm, layer_scale=layer_scale)
    there, back = AuthorsNepa(config).save(tmp_path / "theirs"), tmp_path / "back"
    assert main(["import", str(there), str(tmp_path / "ours")]) == 0
    assert main(["export", str(tmp_path / "ours"), str(back), "--layout", "authors"]) == 0
    assert_same_tensors(there / "model.safetensors", back / "model.safetensors")
    written = json.loads((back / "config.json").read_text())
    assert {key: value for key, value in config.items() if key != "num_prompt_token"}.items() <= written.items()


def assert_same_tensors(one: Path, other: Path) -> None:
    first, second = safetensors.torch.load_file(one), safetensors.torch.load_file(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) and first[name].dtype == second[name].dtype for name in first)


def test_number_format_is_kept(tmp_path: Path) -> None:
    """Weights stored as bfloat16 stay so: an import is a change of names, not of numbers."""
    folder = AuthorsNepa(config_of()).bfloat16().save(tmp_path / "theirs")
    assert main(["import", str(folder), str(tmp_path / "ours")]) == 0
    written = safetensors.torch.load_file(tmp_path / "ours" / "model.safetensors")
    assert {value.dtype for value in written.values()} == {torch.bfloat16}


def test_all_kinds_of_files_are_read(tmp_path: Path) -> None:
    """safetensors and state dicts of torch.save, one file or several with an index, bring in the same tensors."""
    oracle = AuthorsNepa(config_of())
    whole = oracle.save(tmp_path / "whole")
    state, config = oracle.state_dict(), (whole / "config.json").read_text()
    for name in ("shards", "bin shards", "bin", "nested", "bare"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config)
    files = {key: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, key in enumerate(state)}
    for file in set(files.values()):
        shard = {key: value for key, value in state.items() if files[key] == file}
        safetensors.torch.save_file(shard, tmp_path / "shards" / file)
    (tmp_path / "shards" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    pickles = {key: file.replace("model", "pytorch_model").replace("safetensors", "bin") for key, file in files.items()}
    for file in set(pickles.values()):
        torch.save({key: value for key, value in state.items() if pickles[key] == file}, tmp_path / "bin shards" / file)
    (tmp_path / "bin shards" / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": pickles}))
    torch.save(state, tmp_path / "bin" / "pytorch_model.bin")
    torch.save({"state_dict": state}, tmp_path / "nested" / "pytorch_model.bin")
    bare = {key.removeprefix("vit_nepa."): value for key, value in state.items()}
    torch.save(bare, tmp_path / "bare" / "pytorch_model.bin")
    for name in ("whole", "shards", "bin shards", "bin", "nested", "bare"):
        assert main(["import", str(tmp_path / name), str(tmp_path / f"{name}-ours")]) == 0
        assert_same_tensors(tmp_path / "whole-ours/model.safetensors", tmp_path / f"{name}-ours/model.safetensors")


def test_moving_average_is_its_own_file(tmp_path: Path) -> None:
    """``--ema`` takes pytorch_model_ema.bin, and leaves the raw weights beside it alone."""
    raw, average = AuthorsNepa(config_of(), seed=0), AuthorsNepa(config_of(), seed=1)
    folder = raw.save(tmp_path / "theirs")
    torch.save(average.state_dict(), folder / "pytorch_model_ema.bin")
    assert distance(brought_in(folder, tmp_path / "raw"), raw, 16) < 1e-5
    assert distance(brought_in(folder, tmp_path / "average", "--ema"), average, 16) < 1e-5


def test_released_files_have_these_tensors() -> None:
    """At the released sizes, names, shapes and counts are those of the released files ."""
    released = {
        ("base", "plain", 0): (221, 85_527_552),
        ("large", "weight", 0): (485, 302_967_808),
        ("base", "weight", 1000): (249, 86_299_624),
        ("large", "weight", 1000): (489, 303_994_856),
    }
    for (size, qk_norm, labels), (tensors, params) in released.items():
        arch = architecture(size, 14, qk_norm=qk_norm)  # type: ignore[arg-type]
        pool = "mean" if labels else None
        ours = skeleton(Description(arch, 224, causal=not labels, num_classes=labels, pool=pool))  # type: ignore[arg-type]
        theirs = to_authors(ours, gated=False)
        shape = {"width": arch.embed_dim, "depth": arch.depth, "heads": arch.num_heads}
        with torch.device("meta"):
            oracle = AuthorsNepa(config_of(**shape, qk_norm=qk_norm, labels=labels, image=224, patch=14), seed=None)
        check_tensors(theirs, oracle.state_dict(), Path("released"))
        assert (len(theirs), sum(value.numel() for value in theirs.values())) == (tensors, params)


def imported(folder: Path, out: Path, *flags: str) -> dict[str, Any]:
    """The model's arguments that an import wrote."""
    assert main(["import", str(folder), str(out), *flags]) == 0
    arguments: dict[str, Any] = json.loads((out / "config.json").read_text())["model_args"]
    return arguments


def rewrite(folder: Path, **changes: Any) -> None:
    """Change fields of a configuration; None leaves one out."""
    path = folder / "config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_qk_norm_without_parameters_is_a_matter_of_words(tmp_path: Path) -> None:
    """Plain QK-norm leaves no tensors: the file's word counts, then the paper's, and ``--qk-norm`` above both."""
    folder = AuthorsNepa(config_of(qk_norm="none")).save(tmp_path / "theirs")
    assert imported(folder, tmp_path / "stated")["qk_norm"] == "none"
    assert imported(folder, tmp_path / "flag", "--qk-norm", "plain")["qk_norm"] == "plain"
    rewrite(folder, qk_norm=None, qk_norm_affine=None)
    assert imported(folder, tmp_path / "silent")["qk_norm"] == "plain"
    assert imported(folder, tmp_path / "none", "--qk-norm", "none")["qk_norm"] == "none"


def test_attention_is_the_files_unless_stated(tmp_path: Path) -> None:
    """The configuration decides; where it is silent, pre-trained weights are causal and classifiers are not."""
    pretrained = AuthorsNepa(config_of()).save(tmp_path / "pretrained")
    finetuned = AuthorsNepa(config_of(labels=3, causal=True)).save(tmp_path / "finetuned")
    assert imported(finetuned, tmp_path / "a")["causal"] is True
    assert imported(finetuned, tmp_path / "b", "--attention", "bidirectional")["causal"] is False
    for folder in (pretrained, finetuned):
        rewrite(folder, is_causal=None)
    assert imported(pretrained, tmp_path / "c")["causal"] is True
    assert imported(finetuned, tmp_path / "d")["causal"] is False


def test_import_without_configuration_says_what_it_assumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tensors alone give the shape; heads of 64 channels, 224 pixels and the paper's QK-norm are assumed aloud."""
    oracle = AuthorsNepa(config_of(width=128, heads=2, image=224, patch=14, gated=True, hidden=42))
    folder = oracle.save(tmp_path / "theirs")
    (folder / "config.json").unlink()
    model = brought_in(folder, tmp_path / "ours")
    assert distance(model, oracle, 224, count=1) < 1e-5
    said = capsys.readouterr().out.splitlines()[1]
    assert said == (
        "assumed, as config.json does not say: num_attention_heads=2, image_size=224, is_causal=True, qk_norm=True,"
        " qk_norm_affine=False, layerscale_value=1e-05, pos_embed_rescale=2.0"
    )


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"size": {"height": 16, "width": 16}, "resample": 2}, (1.0, "squash", "bilinear")),
        ({"size": 16}, (1.0, "squash", "bilinear")),
        ({"size": {"shortest_edge": 16}, "crop_pct": 0.9, "resample": 3}, (0.9, "center", "bicubic")),
        (
            {"size": {"shortest_edge": 20}, "do_center_crop": True, "crop_size": {"height": 16, "width": 16}},
            (0.8, "center", "bilinear"),
        ),
        ({"size": {"height": 32, "width": 32}, "do_center_crop": True, "crop_size": 16}, (0.5, "squash", "bilinear")),
    ],
    ids=["ViT", "ViT of old", "ConvNeXt", "CLIP", "DeiT"],
)
def test_preprocessor_is_read(tmp_path: Path, said: dict[str, Any], expected: tuple[float, str, str]) -> None:
    """The evaluation transform that the file describes, in the words of each of transformers' processors, is timm's."""
    folder = AuthorsNepa(config_of(labels=3)).save(tmp_path / "theirs")
    channels = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.1]}
    (folder / "preprocessor_config.json").write_text(json.dumps(said | channels))
    found = resolve_model_data_config(brought_in(folder, tmp_path / "ours"))
    assert (found["crop_pct"], found["crop_mode"], found["interpolation"]) == expected
    assert list(found["mean"]) == channels["image_mean"]
    assert list(found["std"]) == channels["image_std"]
    assert found["input_size"] == (3, 16, 16)


def test_settings_without_a_place_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Dropout and shifted RoPE of a configuration do not get lost without a word."""
    folder = AuthorsNepa(config_of()).save(tmp_path / "theirs")
    rewrite(folder, hidden_dropout_prob=0.1, pos_embed_shift=0.5, attention_probs_dropout_prob=0.0)
    brought_in(folder, tmp_path / "ours")
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out")]
    assert line.endswith(": pos_embed_shift=0.5, hidden_dropout_prob=0.1")


def test_label_names_travel(tmp_path: Path) -> None:
    """Names of the classes arrive where timm looks for them."""
    folder = AuthorsNepa(config_of(labels=3)).save(tmp_path / "theirs")
    model = brought_in(folder, tmp_path / "ours")
    assert model.pretrained_cfg["label_names"] == ["class 0", "class 1", "class 2"]


def test_classifier_can_be_given_other_classes(tmp_path: Path) -> None:
    """timm's own way of starting from a model with another head works on an import."""
    folder = AuthorsNepa(config_of(labels=3)).save(tmp_path / "theirs")
    before = brought_in(folder, tmp_path / "ours")
    model = timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True, num_classes=11)
    assert model(images(16)).shape == (2, 11)
    assert torch.equal(model.blocks[0].attn.qkv.weight, before.blocks[0].attn.qkv.weight)
