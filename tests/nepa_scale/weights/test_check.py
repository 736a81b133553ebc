"""``check``: what weights do on images, held to the authors' model restated, and beside published values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from authors_nepa import AuthorsNepa, config_of
from PIL import Image
from torch import Tensor
from torch.nn.functional import cosine_similarity

from nepa_scale.config.ladder import architecture
from nepa_scale.weights import check
from nepa_scale.weights.__main__ import main
from nepa_scale.weights.check import Published, Value
from nepa_scale.weights.timm_layout import Description

PROCESSOR = {"size": {"height": 16, "width": 16}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """An oblong image of noise, under the name that published values know."""
    path = tmp_path / "000000039769.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)).save(path)
    return path


def saved(oracle: AuthorsNepa, folder: Path, **processor: Any) -> Path:
    """The oracle as the authors would publish it."""
    oracle.save(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | processor))
    return folder


def squashed(path: Path) -> Tensor:
    """The image as PIL squashes it, [1, 3, 16, 16] in [-1, 1]."""
    pixels = np.asarray(Image.open(path).resize((16, 16), Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels / 127.5 - 1).float().permute(2, 0, 1)[None]


def loss_of(oracle: AuthorsNepa, image: Tensor) -> float:
    """NEPA's loss by the oracle: minus the mean cosine of each token's output with the next token's embedding."""
    patches = oracle.vit_nepa.embeddings.patch_embeddings.projection(image).flatten(2).transpose(1, 2)
    return -cosine_similarity(oracle(image)[:, :-1], patches, dim=-1).mean().item()


def answer(capsys: pytest.CaptureFixture[str], *words: Path, code: int = 0) -> dict[str, Any]:
    """What ``check --json`` says."""
    capsys.readouterr()
    assert main(["check", *map(str, words), "--json"]) == code
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    return content


@pytest.mark.slow(seconds=5)
@torch.no_grad()
def test_loss_is_the_oracles(tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Loss and first token of a photograph are those of the authors' model, before and after an import."""
    oracle = AuthorsNepa(config_of())
    theirs, ours = saved(oracle, tmp_path / "theirs"), tmp_path / "ours"
    assert main(["import", str(theirs), str(ours)]) == 0
    for folder in (theirs, ours):
        found = answer(capsys, folder, photo)
        assert found["mean_loss"] == pytest.approx(loss_of(oracle, squashed(photo)), abs=1e-5)
        first = oracle(squashed(photo))[0, 0, :3].tolist()
        assert found["images"][0]["first_token"] == pytest.approx(first, abs=1e-5)
        assert found["reference"] == {"verdict": "no reference"}
        without_image = answer(capsys, folder)
        assert without_image["images"][0]["first_token"] == pytest.approx(first, abs=1e-5)
        assert without_image["mean_loss"] != pytest.approx(found["mean_loss"], abs=1e-3)


@torch.no_grad()
def test_classes_are_the_oracles(tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The classes of a photograph are the authors' model's, the most probable first, with their names."""
    oracle = AuthorsNepa(config_of(labels=7, causal=False))
    [image] = answer(capsys, saved(oracle, tmp_path / "theirs"), photo)["images"]
    scores = oracle(squashed(photo))[0]
    order = scores.argsort(descending=True)[:5].tolist()
    assert [(each["label"], each["name"]) for each in image["classes"]] == [(k, f"class {k}") for k in order]
    expected = scores.softmax(0)[order].tolist()
    assert [each["probability"] for each in image["classes"]] == pytest.approx(expected, abs=1e-5)


def test_evaluation_settings_are_the_files(tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Crop and normalisation come from the file: another one gives another loss."""
    oracle = AuthorsNepa(config_of())
    plain = answer(capsys, saved(oracle, tmp_path / "a"), photo)
    other = answer(capsys, saved(oracle, tmp_path / "b", crop_pct=0.5, image_mean=[0.2] * 3), photo)
    assert (other["preprocessing"]["crop_pct"], other["preprocessing"]["mean"]) == (0.5, [0.2] * 3)
    assert abs(plain["mean_loss"] - other["mean_loss"]) > 1e-3


def table(oracle: AuthorsNepa, image: Tensor, *, off: float = 0.0) -> list[Published]:
    """What would have been published of the oracle, ``off`` by so much."""
    with torch.no_grad():
        first = tuple(value + off for value in oracle(image)[0, 0, :3].tolist())
        values = {
            "first_token": Value(first, 1e-3, any_image=True),
            "loss": Value((loss_of(oracle, image) + off,), 1e-3),
        }
    preprocessing = check.Preprocessing(1.0, "squash", "bilinear")
    return [Published("somebody's", "a test", {"embed_dim": 32, "depth": 2}, "000000039769", preprocessing, values)]


def test_published_values_are_compared(tmp_path: Path, photo: Path) -> None:
    """Equal values match and others differ; without the image that they are of, the first token alone is compared.

    The comparison prepares the image as theirs was, whatever the file says.
    """
    oracle = AuthorsNepa(config_of())
    folder = saved(oracle, tmp_path / "theirs", crop_pct=0.5)
    right, wrong = table(oracle, squashed(photo)), table(oracle, squashed(photo), off=2e-3)
    found = check.check(folder, [photo], right)["reference"]
    assert (found["verdict"], [each["name"] for each in found["compared"]]) == ("matches", ["first_token", "loss"])
    assert check.check(folder, [photo], wrong)["reference"]["verdict"] == "differs"
    without = check.check(folder, [], right)["reference"]
    assert (without["verdict"], list(without["not_compared"])) == ("matches", ["loss"])
    assert check.check(folder, [], wrong)["reference"]["verdict"] == "differs"


def test_plain_and_no_qk_norm_are_told_apart(tmp_path: Path, photo: Path) -> None:
    """What the documents tell users to compare: the wrong import has another loss, though the same first token."""
    oracle = AuthorsNepa(config_of(qk_norm="plain"))
    theirs = saved(oracle, tmp_path / "theirs")
    for kind, verdicts in {"plain": [True, True], "none": [True, False]}.items():
        assert main(["import", str(theirs), str(tmp_path / kind), "--qk-norm", kind]) == 0
        reference = check.check(tmp_path / kind, [photo], table(oracle, squashed(photo)))["reference"]
        assert [each["matches"] for each in reference["compared"]] == verdicts


@pytest.mark.slow(seconds=7)
def test_base_weights_have_published_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The authors' base models are known by their shape; other weights of that shape differ, with exit code 1."""
    entries = {entry.weights: entry for entry in check.read_published()}
    base, finetuned = entries["SixAILab/nepa-base-patch14-224"], entries["SixAILab/nepa-base-patch14-224-sft"]
    assert base.values["loss"].numbers == (-0.9947,)
    assert base.values["first_token"].numbers == (-0.9382, -0.0110, -0.3818)
    assert finetuned.values["logits"].numbers == (-0.4296, 0.3034, -0.7744)
    for qk_norm in ("plain", "none", "weight"):
        arch = architecture("base", 14, qk_norm=qk_norm)  # type: ignore[arg-type]
        assert check.published_for(Description(arch, 224, causal=True), list(entries.values())) is base
        labelled = Description(arch, 224, causal=False, num_classes=1000, pool="mean")
        assert check.published_for(labelled, list(entries.values())) is finetuned
        assert check.published_for(Description(arch, 448, causal=True), list(entries.values())) is None
    oracle = AuthorsNepa(config_of(width=768, depth=12, heads=12, image=224, patch=14))
    found = answer(capsys, oracle.save(tmp_path / "theirs"), code=1)["reference"]
    assert (found["verdict"], found["weights"]) == ("differs", base.weights)
    assert main(["check", str(tmp_path / "theirs")]) == 1
    assert base.weights in capsys.readouterr().out


def test_what_cannot_be_checked_is_named(tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing folder, a file, a run, and images that are missing or none: one line and exit code 2."""
    theirs, run = saved(AuthorsNepa(config_of()), tmp_path / "theirs"), tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("seed: 0\n")
    for words, complaint in (
        ([tmp_path / "nowhere"], "does not exist; name a folder of weights"),
        ([photo], "is a file; name a folder of weights"),
        ([run], "a run; write its weights with `export`"),
        ([theirs, tmp_path / "absent.png"], "absent.png: cannot be read"),
        ([theirs, tmp_path], "cannot be read: Is a directory"),
        ([theirs, theirs / "config.json"], "cannot be decoded"),
    ):
        assert main(["check", *map(str, words)]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert complaint in line
