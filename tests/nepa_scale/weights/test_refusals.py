"""What is wrong with weights is said in one line that names file and keys; nothing is executed, nothing written."""

from __future__ import annotations

import json
import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from authors_nepa import AuthorsNepa, config_of
from torch import Tensor

from nepa_scale.weights.__main__ import main

Complaint = Callable[..., str]


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A sound folder in the authors' layout."""
    return AuthorsNepa(config_of(labels=3)).save(tmp_path / "theirs")


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Complaint:
    """Run the command; returns its one line of complaint, after a look that it left nothing behind."""

    def call(*words: Any) -> str:
        before = sorted(tmp_path.rglob("*"))
        assert main([str(word) for word in words]) == 2
        assert sorted(tmp_path.rglob("*")) == before
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        return line.removeprefix("error: ")

    return call


def edit(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    """Change the tensors of a folder; returns their file."""
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path)
    return path


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


class Dropper:
    """Unpickled without care, it writes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_not_executed(tmp_path: Path, theirs: Path, refused: Complaint, zipped: bool) -> None:
    """A file that would run a command when unpickled is refused, in PyTorch's format and as a bare pickle."""
    mark, path = tmp_path / "executed", theirs / "pytorch_model_ema.bin"
    content = {**AuthorsNepa(config_of(labels=3)).state_dict(), "classifier.bias": Dropper(mark)}
    if zipped:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    line = refused("import", theirs, tmp_path / "out", "--ema")
    reason = "holds Python objects other than tensors; refused, nothing was executed" if zipped else "truncated, or not"
    assert line.startswith(f"{path}: {reason}")
    assert not mark.exists()
    if not zipped:
        pickle.loads(path.read_bytes())  # the trap itself works
        assert mark.exists()


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_truncated_files_are_refused(tmp_path: Path, theirs: Path, refused: Complaint, kept: float) -> None:
    """A download that was cut off, wherever, is named; also one cut inside its header, or empty."""
    torch.save(AuthorsNepa(config_of(labels=3)).state_dict(), theirs / "pytorch_model_ema.bin")
    for name, flags in (("model.safetensors", []), ("pytorch_model_ema.bin", ["--ema"])):
        path = theirs / name
        path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
        assert refused("import", theirs, tmp_path / "out", *flags).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda found: found.pop("vit_nepa.layernorm.bias"), "missing: vit_nepa.layernorm.bias"),
        (lambda found: found.pop("fc_norm.bias"), "missing: fc_norm.bias"),
        (lambda found: found.update({"decoder.weight": torch.zeros(2)}), "unknown: decoder.weight"),
        (
            lambda found: found.update({"vit_nepa.embeddings.cls_token": torch.zeros(1, 1, 5)}),
            "of another shape: vit_nepa.embeddings.cls_token [1, 1, 5] instead of [1, 1, 32]",
        ),
        (
            lambda found: [found.pop(name) for name in list(found) if ".layer.1.attention" in name],
            "missing: vit_nepa.encoder.layer.1.attention.attention.query.weight, "
            "vit_nepa.encoder.layer.1.attention.attention.key.weight, "
            "vit_nepa.encoder.layer.1.attention.attention.value.weight, "
            "vit_nepa.encoder.layer.1.attention.attention.query.bias, "
            "vit_nepa.encoder.layer.1.attention.attention.key.bias and 3 more",
        ),
    ],
    ids=["missing", "missing from the head", "unknown", "misshapen", "many"],
)
def test_tensors_that_do_not_fit_are_named(
    tmp_path: Path, theirs: Path, refused: Complaint, change: Callable[[dict[str, Tensor]], object], complaint: str
) -> None:
    """Missing, unknown and misshapen tensors are named by the authors' names; of many, the first five."""
    path = edit(theirs, change)
    line = refused("import", theirs, tmp_path / "out")
    assert line == f"{path}: does not hold this model's tensors; {complaint}"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"hidden_size": 48}, "hidden_size=48 (must be 32)"),
        ({"num_hidden_layers": 12}, "num_hidden_layers=12 (must be 2)"),
        ({"intermediate_size": 64}, "intermediate_size=64 (must be 128)"),
        ({"patch_size": 14}, "patch_size=14 (must be 4)"),
        ({"use_gated_mlp": True}, "use_gated_mlp=True (must be False)"),
        ({"hidden_act": "relu"}, "hidden_act=relu (must be gelu)"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps=1e-05 (must be 1e-12)"),
        ({"rope_theta": 10000.0}, "rope_theta=10000.0 (must be 100.0)"),
        ({"model_type": "vit"}, "model_type=vit (must be vit_nepa)"),
        ({"add_pooling_layer": False}, "add_pooling_layer=False (must be True)"),
        ({"id2label": {"0": "cat"}}, "id2label does not name the classes 0 to 2"),
        ({"image_size": "large"}, "image_size='large' (must be a whole number)"),
        ({"is_causal": 1}, "is_causal=1 (must be true or false)"),
        ({"drop_path_prob": 1.5}, "drop_path_prob=1.5 (must be a number from 0 on, below 1)"),
        (
            {"qk_norm_affine": True},
            "qk_norm and qk_norm_affine ask for vit_nepa.encoder.layer.0.attention.attention.q_norm.weight",
        ),
        (
            {"layerscale_value": None},
            "layerscale_value leave no place for vit_nepa.encoder.layer.0.layer_scale.lambda1",
        ),
    ],
)
def test_contradictions_are_named(
    tmp_path: Path, theirs: Path, refused: Complaint, changes: dict[str, Any], complaint: str
) -> None:
    """A configuration that says something else than the tensors, or than NEPA, is not believed in part."""
    configure(theirs, **changes)
    line = refused("import", theirs, tmp_path / "out")
    assert line == f"{theirs / 'model.safetensors'}: does not go with config.json (or --qk-norm): {complaint}"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"image_size": 18}, "image_size=18 must be a multiple of patch_size=4: use 16 or 20"),
        ({"num_attention_heads": 3}, "embed_dim=32 must be a multiple of 4 x num_heads (12)"),
    ],
)
def test_impossible_shapes_are_named(
    tmp_path: Path, theirs: Path, refused: Complaint, changes: dict[str, Any], complaint: str
) -> None:
    """Numbers that go with the tensors but not with one another are the configuration's mistake."""
    configure(theirs, **changes)
    assert refused("import", theirs, tmp_path / "out").startswith(f"{theirs / 'config.json'}: {complaint}")


def test_flag_against_the_tensors(tmp_path: Path, theirs: Path, refused: Complaint) -> None:
    """``--qk-norm weight`` cannot conjure weights that are not there."""
    assert "qk_norm_affine ask for" in refused("import", theirs, tmp_path / "out", "--qk-norm", "weight")


def test_files_that_are_no_weights(tmp_path: Path, theirs: Path, refused: Complaint) -> None:
    """An unfetched Git LFS file, whole numbers, a list, other tensors, text for JSON, and nothing at all."""
    path, out = theirs / "model.safetensors", tmp_path / "out"
    safetensors.torch.save_file({"classifier.bias": torch.zeros(3, dtype=torch.int64)}, path)
    assert refused("import", theirs, out).startswith(f"{path}: holds tensors that are no weights")
    safetensors.torch.save_file({"conv1.weight": torch.zeros(3)}, path)
    assert refused("import", theirs, out).startswith(f"{path}: not in the authors' layout: no vit_nepa.embeddings")
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "a Git LFS pointer instead of the weights" in refused("import", theirs, out)
    torch.save([torch.zeros(3)], theirs / "pytorch_model_ema.bin")
    assert "pytorch_model_ema.bin: expected tensors by name, found list" in refused("import", theirs, out, "--ema")
    path.unlink()
    names = "no model.safetensors and no model.safetensors.index.json and no pytorch_model.bin"
    assert refused("import", theirs, out).startswith(f"{theirs}: holds {names}")
    (theirs / "config.json").write_text("{")
    (theirs / "pytorch_model.bin").touch()
    assert refused("import", theirs, out).startswith(f"{theirs / 'config.json'}: not a readable JSON file")


def test_shards_that_do_not_add_up(tmp_path: Path, theirs: Path, refused: Complaint) -> None:
    """An index that names a missing file, a tensor its file lacks, or a file elsewhere."""
    index, out = theirs / "model.safetensors.index.json", tmp_path / "out"
    (theirs / "model.safetensors").rename(theirs / "part.safetensors")
    index.write_text(json.dumps({"weight_map": {"a": "absent.safetensors"}}))
    assert "absent.safetensors: not a readable .safetensors file" in refused("import", theirs, out)
    index.write_text(json.dumps({"weight_map": {"a": "part.safetensors"}}))
    assert refused("import", theirs, out) == f"{index}: tensors missing from the files it names: a"
    index.write_text(json.dumps({"weight_map": {"a": "../theirs/part.safetensors"}}))
    assert refused("import", theirs, out).startswith(f"{index}: weight_map must name a file of the same folder")


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        ("absent.KIND", "absent.KIND: not a readable .KIND file"),
        ("../theirs/part.KIND", "weight_map must name a file of the same folder"),
        ("/etc/part.KIND", "weight_map must name a file of the same folder"),
        ("..", "weight_map must name a file of the same folder"),
        ("", "weight_map must name a file of the same folder"),
        ("part\0.KIND", "weight_map must name a file of the same folder"),
        (3, "weight_map must name a file of the same folder"),
        ("INDEX", "weight_map must name a file of the same folder"),
    ],
)
def test_index_of_either_kind_is_not_believed(
    tmp_path: Path, theirs: Path, refused: Complaint, kind: str, file: object, complaint: str
) -> None:
    """A shard that is missing, lies elsewhere, or is no file of tensors is refused, for safetensors and pickles."""
    tensors = safetensors.torch.load_file(theirs / "model.safetensors")
    (theirs / "model.safetensors").unlink()
    index = theirs / ("model.safetensors.index.json" if kind == "safetensors" else "pytorch_model.bin.index.json")
    named = str(file).replace("KIND", kind).replace("INDEX", index.name) if isinstance(file, str) else file
    files: dict[str, object] = dict.fromkeys(tensors, f"part.{kind}")
    if kind == "bin":
        torch.save(tensors, theirs / "part.bin")
    else:
        safetensors.torch.save_file(tensors, theirs / "part.safetensors")
    index.write_text(json.dumps({"weight_map": files | {"classifier.bias": named}}))
    assert complaint.replace("KIND", kind) in refused("import", theirs, tmp_path / "out")
    index.write_text(json.dumps({"weight_map": files | {"more": f"part.{kind}"}}))
    assert refused("import", theirs, tmp_path / "out") == f"{index}: tensors missing from the files it names: more"
    del files["classifier.bias"]
    index.write_text(json.dumps({"weight_map": files}))
    assert f"does not list all tensors of its files: classifier.bias in part.{kind}" in (
        refused("import", theirs, tmp_path / "out")
    )


def test_code_in_a_shard_is_not_executed(tmp_path: Path, theirs: Path, refused: Complaint) -> None:
    """Pickles behind an index are opened with the same care as a single one."""
    mark = tmp_path / "executed"
    (theirs / "model.safetensors").unlink()
    torch.save({"a": Dropper(mark)}, theirs / "part.bin")
    (theirs / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "part.bin"}}))
    assert "holds Python objects other than tensors" in refused("import", theirs, tmp_path / "out")
    assert not mark.exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_refused(tmp_path: Path, theirs: Path, refused: Complaint, value: float) -> None:
    """NaN and infinity do not come in, nor go out of a folder: the tensor is named, in every kind of file."""
    ours = tmp_path / "ours"
    assert main(["import", str(theirs), str(ours)]) == 0
    edit(ours, lambda found: found["blocks.1.mlp.fc2.bias"].fill_(value))
    name = "vit_nepa.encoder.layer.1.output.dense.bias"
    path = edit(theirs, lambda found: found[name][1].fill_(value))
    torch.save(safetensors.torch.load_file(path), theirs / "pytorch_model_ema.bin")
    for words in (["import", theirs, tmp_path / "out"], ["check", theirs]):
        assert refused(*words).startswith(f"{path}: holds NaN or infinite numbers: {name};")
    assert f"pytorch_model_ema.bin: holds NaN or infinite numbers: {name};" in (
        refused("import", theirs, tmp_path / "out", "--ema")
    )
    for words in (["export", ours, tmp_path / "out", "--layout", "authors"], ["check", ours]):
        line = refused(*words)
        assert line.startswith(f"{ours / 'model.safetensors'}: holds NaN or infinite numbers: blocks.1.mlp.fc2.bias;")


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"size": {"height": 20, "width": 20}}, "images of 20 pixels, but the model's image_size is 16"),
        ({"size": {"height": 16, "width": 20}}, "size={'height': 16, 'width': 20} must be the side of a square"),
        ({}, "size=None must be the side of a square"),
        ({"size": 16, "resample": 9}, "resample=9 must be one of PIL's numbers"),
        ({"size": 16, "crop_pct": 2}, "crop_pct=2 must be a number above 0, at most 1"),
        ({"size": 16, "crop_mode": "corner"}, "crop_mode='corner' must be one of center, squash, border"),
        ({"size": 16, "image_mean": "grey"}, "mean=grey, std=(0.5, 0.5, 0.5): must be a number for each channel"),
        ({"size": 16, "image_std": [0.5, 0.5, 0]}, "std=(0.5, 0.5, 0): must be a number for each channel, std above 0"),
    ],
)
def test_preprocessors_that_make_no_sense(
    tmp_path: Path, theirs: Path, refused: Complaint, said: dict[str, Any], complaint: str
) -> None:
    """An evaluation transform that does not go with the model, or that nobody could apply, is named."""
    path = theirs / "preprocessor_config.json"
    path.write_text(json.dumps(said))
    line = refused("import", theirs, tmp_path / "out")
    assert line.startswith(f"{path}: ")
    assert complaint in line


def test_output_must_be_a_new_folder(tmp_path: Path, theirs: Path, refused: Complaint) -> None:
    """A file in the way, and a folder with anything in it, are left as they are; an empty folder will do."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    assert refused("import", theirs, theirs) == f"{theirs}: holds other files; name a new folder"
    assert refused("import", theirs, tmp_path / "file").endswith("file is a file; name a new folder")
    assert refused("import", theirs, tmp_path / "file" / "out").endswith("file is a file; name a new folder")
    assert main(["import", str(theirs), str(tmp_path / "empty")]) == 0
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == ["config.json", "model.safetensors"]


def test_sources_that_are_something_else(tmp_path: Path, theirs: Path, refused: Complaint) -> None:
    """Each command says what it was given when that is not what it takes."""
    out, ours = tmp_path / "out", tmp_path / "ours"
    assert main(["import", str(theirs), str(ours)]) == 0
    assert refused("import", ours, out) == f"{ours / 'config.json'}: timm's layout already; use `export` to change it"
    assert "the folder that holds it" in refused("import", theirs / "config.json", out)
    assert "no such folder, and no hub name" in refused("import", tmp_path / "nowhere", out)
    export = ["--layout", "timm"]
    assert "neither a run (config.yaml) nor weights" in refused("export", tmp_path, out, *export)
    assert "the authors' layout: run `import` on it first" in refused("export", theirs, out, *export)
    assert "no run (no config.yaml)" in refused("export", ours, out, *export, "--ema")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda config: config.pop("model_args"), "no model_args; not timm's layout"),
        (lambda config: config.update(architecture="resnet50"), "architecture=resnet50 is not nepa_vit"),
        (lambda config: config["model_args"].pop("depth"), "model_args: missing or of a wrong kind: 'depth'"),
        (lambda config: config["model_args"].update(mlp="relu"), "model_args: mlp='relu' must be one of gelu, swiglu"),
        (lambda config: config["model_args"].update(drop=1), "model_args: not known here: drop"),
        (lambda config: config["pretrained_cfg"].update(crop_pct=0), "pretrained_cfg: crop_pct=0 must be a number"),
        (lambda config: config["pretrained_cfg"].update(crop_mode="x"), "pretrained_cfg: crop_mode='x' must be one of"),
        (lambda config: config.update(pretrained_cfg=[1]), "pretrained_cfg: expected settings, found list"),
    ],
)
def test_damaged_timm_folder(
    tmp_path: Path, theirs: Path, refused: Complaint, change: Callable[[dict[str, Any]], object], complaint: str
) -> None:
    """A folder that was edited by hand is refused with the key that is wrong."""
    ours = tmp_path / "ours"
    assert main(["import", str(theirs), str(ours)]) == 0
    content = json.loads((ours / "config.json").read_text())
    change(content)
    (ours / "config.json").write_text(json.dumps(content))
    line = refused("export", ours, tmp_path / "out", "--layout", "authors")
    assert line.startswith(f"{ours / 'config.json'}: {complaint}")
