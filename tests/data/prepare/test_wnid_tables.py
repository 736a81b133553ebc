"""Tiny ImageNet and Kaggle's ImageNet as they are downloaded: in folders and in zip files."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from archives import picture, split_samples, zipped
from PIL import Image
from shard_files import encode
from trees import WNIDS, kaggle_imagenet, tiny_imagenet, write_files

from nepa_scale.data import layout
from nepa_scale.data.prepare.__main__ import main
from nepa_scale.data.sources import open_source

TREES = {"tiny-imagenet": tiny_imagenet, "imagenet": kaggle_imagenet}
VALIDATION = {
    "tiny-imagenet": {f"val/images/val_{index}.JPEG": WNIDS[(index + 2) % 3] for index in range(4)},
    "imagenet": {
        f"ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_{number:08d}.JPEG": wnid
        for number, wnid in ((1, WNIDS[0]), (2, WNIDS[0]), (3, WNIDS[1]), (4, WNIDS[2]))
    },
}


def prepare(kind: str, source: Path, root: Path) -> int:
    """Run the command in this process."""
    return main([kind, f"source={source}", f"root={root}", "name=photos", "workers=1"])


def stored(root: Path, split: str) -> dict[bytes, str]:
    """The class name of every image of a split, by its bytes."""
    source, names = open_source(root, "photos", split), layout.dataset_info(root, "photos").class_names
    return {source[index].image: names[source[index].label] for index in range(len(source))}


@pytest.mark.parametrize("kind", TREES)
def test_official_trees(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every labelled image is there with its class; classes are wnids in their order; what is left out is counted."""
    source, root = TREES[kind](tmp_path / "source"), tmp_path / "data"
    assert prepare(kind, source, root) == 0
    assert layout.check_dataset(root, "photos", needs={"label"}) == []
    assert layout.dataset_info(root, "photos").class_names == WNIDS
    train = {path.read_bytes(): path.name.split("_")[0] for path in source.rglob("n*_?.JPEG")}
    assert stored(root, "train") == train
    assert len(train) == 9
    assert stored(root, "validation") == {(source / name).read_bytes(): wnid for name, wnid in VALIDATION[kind].items()}
    left_out = json.loads((root / "photos" / "_info.json").read_text())["left_out"]
    assert left_out["files in 'test' folders"]["count"] == 1
    total = sum(path.is_file() for path in source.rglob("*"))
    assert sum(entry["count"] for entry in left_out.values()) == total - len(train) - 4 - 2  # two tables are used
    assert "files in 'test' folders: 1" in capsys.readouterr().out


@pytest.mark.parametrize("kind", TREES)
def test_zip_files_as_downloaded(tmp_path: Path, kind: str) -> None:
    """The archive gives what its tree gives, also below the folder that it came in."""
    prefix = "tiny-imagenet-200/" if kind == "tiny-imagenet" else ""
    source = TREES[kind](tmp_path / "source")
    archive = zipped(source, tmp_path / "download.zip", prefix)
    assert prepare(kind, source, tmp_path / "from_folder") == prepare(kind, archive, tmp_path / "from_zip") == 0
    for split in ("train", "validation"):
        assert split_samples(tmp_path / "from_zip/photos", split) == split_samples(
            tmp_path / "from_folder/photos", split
        )


def drop(name: str) -> Callable[[Path], None]:
    """Remove a file."""
    return lambda source: (source / name).unlink()


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Change a text file."""
    return lambda source: (source / name).write_text((source / name).read_text().replace(old, new))


TINY, KAGGLE = "val/val_annotations.txt", "LOC_val_solution.csv"
IMAGES = "ILSVRC/Data/CLS-LOC/val"


@pytest.mark.parametrize(
    ("kind", "spoil", "complaint"),
    [
        ("tiny-imagenet", drop("wnids.txt"), "wnids.txt' is missing"),
        ("tiny-imagenet", drop(TINY), "val_annotations.txt' is missing"),
        ("tiny-imagenet", drop("val/images/val_3.JPEG"), "lacks 1 images"),
        ("tiny-imagenet", edit(TINY, "val_3.JPEG", "val_9.JPEG"), "has no class for 1 images"),
        ("tiny-imagenet", edit(TINY, "val_3.JPEG", "val_2.JPEG"), "line 4"),
        ("tiny-imagenet", edit(TINY, WNIDS[1], "n09999999"), "n09999999"),
        ("tiny-imagenet", edit("wnids.txt", WNIDS[1], "n09999999"), "lacks 1 of 3 classes"),
        ("tiny-imagenet", edit("wnids.txt", WNIDS[1], WNIDS[0]), "names a class twice"),
        ("tiny-imagenet", edit("wnids.txt", WNIDS[1] + "\n", ""), "has 1 folders that are no class"),
        ("imagenet", drop(KAGGLE), "LOC_val_solution.csv' is missing"),
        ("imagenet", drop("LOC_synset_mapping.txt"), "LOC_synset_mapping.txt' is missing"),
        ("imagenet", drop(f"{IMAGES}/ILSVRC2012_val_00000002.JPEG"), "lacks 1 images"),
        ("imagenet", edit(KAGGLE, "ImageId", "Image"), "line 1"),
        ("imagenet", edit(KAGGLE, f"{WNIDS[0]} 5", f"{WNIDS[1]} 5"), "line 3"),
        ("imagenet", edit(KAGGLE, "val_00000002", "val_00000003"), "line 5"),
    ],
)
def test_trees_that_are_not_whole_are_refused(
    tmp_path: Path, kind: str, spoil: Callable[[Path], None], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is missing or does not fit is named; nothing is written."""
    source = TREES[kind](tmp_path / "source")
    spoil(source)
    assert prepare(kind, source, tmp_path / "data") == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_another_kind_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Class folders are asked for and Tiny ImageNet is given: the error says which kind reads it."""
    assert prepare("folder", tiny_imagenet(tmp_path / "source"), tmp_path / "data") == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("tiny-imagenet")


def test_the_documented_way_to_camvid(tmp_path: Path) -> None:
    """The lines in the document turn SegNet's CamVid into masks that are ADE20K's, class by class."""
    lines = (Path(__file__).parents[3] / "docs" / "preparing.md").read_text().split("```python\n")[1].split("```")[0]
    (tmp_path / "camvid.py").write_text(lines)
    stored = np.arange(12, dtype=np.uint8).reshape(3, 4).repeat(6, axis=0).repeat(6, axis=1)
    for split in ("train", "val"):
        files = {f"{split}/0001.png": picture(1, (24, 18), "PNG"), f"{split}annot/0001.png": encode(stored)}
        write_files(tmp_path / "CamVid", files)
    subprocess.run([sys.executable, "camvid.py", "CamVid", "camvid"], cwd=tmp_path, check=True)
    assert main(["ade20k", f"source={tmp_path / 'camvid'}", f"root={tmp_path}", "name=camvid-as-ade", "workers=1"]) == 0
    assert layout.check_dataset(tmp_path, "camvid-as-ade", needs={"mask"}) == []
    sample = open_source(tmp_path, "camvid-as-ade", "train")[0]
    numbers = np.array([3, 2, 94, 7, 12, 5, 44, 33, 21, 13, 128, 0])
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(sample.mask))), numbers[stored])
