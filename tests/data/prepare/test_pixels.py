"""Mean and deviation of training images: those of numpy, wherever they are measured, and where they are kept."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nepa_scale.data import layout
from nepa_scale.data.decode import decode_rgb
from nepa_scale.data.info import DatasetInfo, make_info, parse_info
from nepa_scale.data.prepare.__main__ import main
from nepa_scale.data.prepare.digits import write_digits
from nepa_scale.data.prepare.pixels import PixelSums, total
from nepa_scale.data.preprocessing import Standardisation
from nepa_scale.data.sources import open_source
from nepa_scale.utils.errors import DataError

RNG = np.random.default_rng(0)


def info_of(root: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / name / "_info.json").read_text())
    return content


def statistics_by_numpy(root: Path, name: str) -> dict[str, list[float]]:
    """Mean and deviation over all pixels of the training images as they are stored, in float64."""
    source = open_source(root, name, "train")
    pixels = [decode_rgb(source[index].image).reshape(-1, 3) for index in range(len(source))]
    together = np.concatenate(pixels) / 255
    return {"mean": together.mean(0).tolist(), "std": together.std(0).tolist()}


def assert_measured(root: Path, name: str) -> None:
    found, wanted = info_of(root, name), statistics_by_numpy(root, name)
    for key, values in wanted.items():
        np.testing.assert_allclose(found[key], values, rtol=1e-9)


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """Coloured images of several sizes, JPEG and PNG, grey ones among them; the validation images are white."""
    for split, count in {"train": 6, "validation": 2}.items():
        for number in range(count):
            folder = tmp_path / "source" / split / f"class {number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            low = RNG.integers(0, 255 if split == "train" else 1, (4, 5, 3)) if split == "train" else 255
            pixels = np.broadcast_to(low, (4, 5, 3)).astype(np.uint8)
            image = Image.fromarray(pixels).resize((30 + 7 * number, 25), Image.Resampling.BICUBIC)
            image = image.convert("L") if number == 5 else image
            image.save(folder / f"{number}.{'png' if number % 3 else 'jpg'}")
    return tmp_path / "source"


def test_sums_are_exact_in_any_order() -> None:
    """Images summed in one go or in parts give the same numbers, numpy's to the last digits; nothing gives none."""
    images = [RNG.integers(0, 256, (height, 9, 3), dtype=np.uint8) for height in (1, 5, 30)]
    parts = []
    for image in images:
        parts.append(PixelSums())
        parts[-1].add(image)
    assert total(parts) == total(parts[::-1])
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]) / 255
    np.testing.assert_allclose(total(parts).as_json()["mean"], pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(total(parts).as_json()["std"], pixels.std(0), rtol=1e-12)
    assert PixelSums().as_json() == {}


@pytest.mark.parametrize("words", [[], ["resize=16"], ["shard_size=1", "workers=2"]], ids=["as is", "smaller", "two"])
def test_preparing_measures_training_images_as_stored(class_folders: Path, tmp_path: Path, words: list[str]) -> None:
    """Of the training images alone, at the size and with the compression that they are read with."""
    assert main(["folder", f"source={class_folders}", f"root={tmp_path}", "name=set", *words]) == 0
    assert_measured(tmp_path, "set")


def test_digits_are_measured_and_are_the_same_set_with_or_without(tmp_path: Path) -> None:
    """Scenes carry their statistics; a set that an earlier version wrote without any is still that set."""
    sizes = {"num_train": 30, "num_validation": 10}
    assert write_digits(tmp_path, **sizes)
    assert_measured(tmp_path, "digits")
    before = layout.identity(tmp_path, "digits")
    content = info_of(tmp_path, "digits")
    (tmp_path / "digits" / "_info.json").write_text(json.dumps({k: v for k, v in content.items() if k != "mean"}))
    assert not write_digits(tmp_path, **sizes)
    assert layout.identity(tmp_path, "digits") == before


def test_a_set_without_them_is_measured_by_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The one error names the command, which adds both, keeps the checksums true and passes over bad images."""
    write_digits(tmp_path, num_train=30, num_validation=10, shard_size=10)
    path = tmp_path / "digits" / "_info.json"
    measured = info_of(tmp_path, "digits")
    path.write_text(json.dumps({key: value for key, value in measured.items() if key not in ("mean", "std")}))
    with pytest.raises(DataError) as raised:
        layout.standardisation(tmp_path, "digits", "dataset", "dataset")
    command = f"nepa_scale.data.prepare index root={tmp_path} name=digits measure=true"
    assert command in str(raised.value)
    assert layout.check_standardisation(tmp_path, "digits", "dataset", "dataset") == [str(raised.value)]
    assert layout.check_standardisation(tmp_path, "digits", "0.5", "0.5") == []
    assert main(command.split()[1:]) == 0
    assert info_of(tmp_path, "digits") == measured
    assert main(["verify", f"root={tmp_path}", "name=digits"]) == 0
    found = layout.standardisation(tmp_path, "digits", "dataset", "dataset")
    assert found == Standardisation(tuple(measured["mean"]), tuple(measured["std"]))
    shard = tmp_path / "digits" / "train-000001.tar"
    content = shard.read_bytes()
    start = content.index(b"\x89PNG")
    shard.write_bytes(content[:start] + b"<html" + content[start + 5 :])
    capsys.readouterr()
    assert main(command.split()[1:]) == 0
    assert "1 that cannot be decoded" in capsys.readouterr().out


def test_index_alone_leaves_info_as_it_is(tmp_path: Path) -> None:
    """Reading all images is asked for."""
    write_digits(tmp_path, num_train=20, num_validation=10)
    path = tmp_path / "digits" / "_info.json"
    path.write_text(json.dumps({k: v for k, v in info_of(tmp_path, "digits").items() if k not in ("mean", "std")}))
    before = path.read_bytes()
    assert main(["index", f"root={tmp_path}", "name=digits"]) == 0
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("extra", "taken"),
    [
        ({"mean": [0.1, 0.2, 0.3], "std": [0.1, 0.2, 1]}, True),
        ({}, False),
        ({"mean": [0.1, 0.2, 0.3]}, False),
        ({"mean": 0.5, "std": 0.5}, False),
        ({"mean": [0.1, 0.2], "std": [0.1, 0.2]}, False),
        ({"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4]}, False),
        ({"mean": [0.1, 0.2, "x"], "std": [0.1, 0.2, 0.3]}, False),
        ({"mean": [0.1, 0.2, 0.3], "std": [0.1, 0, 0.3]}, False),
    ],
)
def test_only_statistics_that_images_can_have_are_taken(extra: dict[str, Any], taken: bool) -> None:
    """Other keys of that name, of a set from elsewhere, stay without a meaning and do no harm."""
    info: DatasetInfo = parse_info(make_info("x", split_sizes={"train": 1, "validation": 1}, shard_size=1) | extra, "x")
    assert (info.mean is not None, info.std is not None) == (taken, taken)


def test_unfinished_work_of_an_earlier_version_gets_none(class_folders: Path, tmp_path: Path) -> None:
    """Where some shards were written unmeasured, statistics of the rest would be wrong: there are none."""
    words = ["folder", f"source={class_folders}", f"root={tmp_path}", "name=set", "shard_size=2", "workers=1"]
    (class_folders / "train" / "class 1" / "5.png").write_bytes(b"no image")
    assert main(words) == 2
    notes = sorted((tmp_path / ".preparing-set" / "done").glob("train*.json"))
    old = json.loads(notes[0].read_text())
    del old["sums"]
    notes[0].write_text(json.dumps(old))
    assert main([*words, "skip_bad=true"]) == 0
    assert not {"mean", "std"} & info_of(tmp_path, "set").keys()
    shutil.rmtree(tmp_path / "set")
    assert main([*words, "skip_bad=true"]) == 0
    assert_measured(tmp_path, "set")


def test_folders_of_images_are_not_measured(tmp_path: Path) -> None:
    """ADE20K read as it is has no place for statistics: the error names the command that makes shards."""
    for kind, folder in {"jpg": "images", "png": "annotations"}.items():
        for split in ("training", "validation"):
            (tmp_path / "ade" / folder / split).mkdir(parents=True)
            buffer = io.BytesIO()
            Image.new("RGB" if kind == "jpg" else "L", (8, 8), 1).save(buffer, "JPEG" if kind == "jpg" else "PNG")
            (tmp_path / "ade" / folder / split / f"x.{kind}").write_bytes(buffer.getvalue())
    [problem] = layout.check_standardisation(tmp_path, "ade", "dataset", "dataset")
    assert "prepare ade20k " in problem
