"""Shards from elsewhere, completed in place."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from archives import picture, tar_bytes
from shard_files import encode

from nepa_scale.data import layout
from nepa_scale.data.prepare.__main__ import main
from nepa_scale.data.sources import open_source


def shard(first: int, count: int, *, label: bytes | None = None) -> bytes:
    """A shard as in timm/imagenet-1k-wds: .cls, .jpg and .json of every sample."""
    files = {}
    for index in range(first, first + count):
        files[f"n{index:08d}.cls"] = b"%d" % (index % 5) if label is None else label
        files[f"n{index:08d}.jpg"] = picture(index)
        files[f"n{index:08d}.json"] = b'{"label": 1}'
    return tar_bytes(files)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three training shards and two of validation, without a table of contents."""
    folder = tmp_path / "data" / "wds"
    folder.mkdir(parents=True)
    for number, count in enumerate((4, 3, 4)):
        (folder / f"imagenet1k-train-{number:04d}.tar").write_bytes(shard(10 * number, count))
    for number in range(2):
        (folder / f"imagenet1k-validation-{number:02d}.tar").write_bytes(shard(50 + 10 * number, 2))
    return folder


def adopt(folder: Path) -> int:
    """Run the command in this process."""
    return main(["adopt", f"root={folder.parent}", f"name={folder.name}", "workers=1"])


def shards(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """What must not change."""
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes()) for p in folder.glob("*.tar")}


def test_shards_are_adopted_unchanged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Splits by name, lengths by counting, classes by labels; no shard is touched; sha256sum agrees."""
    before = shards(folder)
    assert adopt(folder) == 0
    output = capsys.readouterr().out
    assert "11 train and 4 validation images, 4 classes" in output
    assert "not read: 15 '.json' (such as 'n00000000.json')" in output
    assert shards(folder) == before
    info = layout.dataset_info(folder.parent, "wds")
    assert (info.num_classes, info.splits["train"].shard_lengths, info.splits["validation"].num_samples) == (
        4,
        (4, 3, 4),
        4,
    )
    assert {path.name for path in folder.iterdir()} == {*before, "_info.json", "_index", "SHA256SUMS"}
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.count(": OK") == 6
    source = open_source(folder.parent, "wds", "train")
    assert source.labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3]
    assert main(["verify", f"root={folder.parent}", "name=wds", "workers=1"]) == 0


def test_a_table_of_contents_is_kept(folder: Path) -> None:
    """What came with the shards stays byte for byte, and adopting twice changes nothing."""
    assert adopt(folder) == 0
    info = json.loads((folder / "_info.json").read_text()) | {"num_classes": 9, "notes": "as downloaded"}
    text = json.dumps(info)
    (folder / "_info.json").write_text(text)
    assert adopt(folder) == 0
    assert (folder / "_info.json").read_text() == text
    (folder / "._info.json.77.tmp").write_text("{")  # from a process that was killed
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file() and not path.name.startswith("._")}
    assert adopt(folder) == 0
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_a_table_without_classes_is_pointed_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Labels that no one could use are mentioned with what to add; the file is left as it is all the same."""
    assert adopt(folder) == 0
    info = json.loads((folder / "_info.json").read_text())
    del info["num_classes"]
    (folder / "_info.json").write_text(json.dumps(info))
    assert adopt(folder) == 0
    assert 'add "num_classes": 4 to _info.json' in capsys.readouterr().out
    assert "num_classes" not in json.loads((folder / "_info.json").read_text())


def test_a_table_of_contents_that_is_wrong_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every shard that disagrees is named; nothing is written."""
    assert adopt(folder) == 0
    info = json.loads((folder / "_info.json").read_text())
    info["splits"]["train"] |= {"shard_lengths": [4, 4, 4], "num_samples": 12}
    (folder / "_info.json").write_text(json.dumps(info | {"num_classes": 3}))
    (folder / "SHA256SUMS").unlink()
    assert adopt(folder) == 2
    lines = capsys.readouterr().err.splitlines()
    assert sum("must hold 4 samples by _info.json, but 3 found" in line for line in lines) == 1
    assert sum("labels that are not from 0 to 2" in line for line in lines) == 2
    assert not (folder / "SHA256SUMS").exists()


def test_masks_are_pointed_out_and_then_used(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No shard says what the values of its masks are: the advice makes a data set for segmentation of them."""
    for path, key in zip(sorted(folder.glob("*.tar")), "abcde", strict=True):
        path.write_bytes(tar_bytes({f"{key}.jpg": picture(1), f"{key}.seg.png": encode(np.ones((18, 22), np.uint8))}))
    assert adopt(folder) == 0
    assert '5 samples have a mask (seg.png): for segmentation add "mask_class_names": [' in capsys.readouterr().out
    [problem] = layout.check_dataset(folder.parent, "wds", needs={"mask"})
    assert "names no classes of masks (mask_class_names in _info.json)" in problem
    info = json.loads((folder / "_info.json").read_text()) | {"mask_class_names": ["wall"]}
    (folder / "_info.json").write_text(json.dumps(info))
    assert adopt(folder) == 0
    assert "have a mask" not in capsys.readouterr().out
    assert layout.check_contents(folder.parent, "wds", needs={"mask"}) == []


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("imagenet1k-train-0001.tar", b"", "is empty (0 bytes)"),
        ("imagenet1k-train-0001.tar", shard(10, 3)[:5000], "cut off"),
        ("imagenet1k-train-0003.tar", shard(0, 2), "sample 'n00000000' is in"),
        ("imagenet1k-train-0003.tar", tar_bytes({"x.1.jpg": picture(1), "x.1.cls": b"1"}), "only .1.cls, .1.jpg; as"),
        ("imagenet1k-train-0003.tar", tar_bytes({"x.json": b"{}"}), "has no images (.jpg, .jpeg or .png); it holds 1"),
        ("imagenet1k-train-0003.tar", shard(90, 1, label=b"300000000"), "class 300,000,000 is out of range"),
        ("more-train-0-of-2.tar", shard(90, 1), "has 1 of 2 files 'more-train-*': missing 1"),
        ("extra.tar", shard(0, 2), "neither train nor validation by name: extra.tar"),
    ],
)
def test_bad_shards_are_refused(
    folder: Path, name: str, content: bytes, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line with the shard and the fault, exit code 2."""
    (folder / name).write_bytes(content)
    assert adopt(folder) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line
    assert not (folder / "_info.json").exists()
    assert not (folder / "SHA256SUMS").exists()


def test_validation_shards_must_be_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A download that is not finished is noticed."""
    for path in folder.glob("*validation*"):
        path.unlink()
    assert adopt(folder) == 2
    assert "has no shard with 'validation' in its name" in capsys.readouterr().err


def test_missing_numbers_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Shards that are numbered and not all there are adopted, and what seems to be missing is named."""
    (folder / "imagenet1k-train-0001.tar").unlink()
    assert adopt(folder) == 0
    assert "are missing: imagenet1k-train-0001.tar" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"x.jpg": picture(1)}, "1 of 16 samples have no .cls with a whole number from 0 on; in .* 'x' has no .cls"),
        ({"x.jpg": picture(1), "x.cls": b"cat"}, "sample 'x' has .cls b'cat'"),
        ({"x.jpg": picture(1), "x.cls": b"-1"}, "sample 'x' has .cls b'-1'"),
        ({"x.jpg": picture(1), "x.cls.txt": b"1"}, r"sample 'x' has no .cls\n.*1 '.txt' \(such as 'x.cls.txt'\)"),
    ],
)
def test_no_classes_are_explained(
    folder: Path, files: dict[str, bytes], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was looked for in every sample, and what the first one without has."""
    (folder / "imagenet1k-train-0003.tar").write_bytes(tar_bytes(files))
    assert adopt(folder) == 0
    output = capsys.readouterr().out
    assert ", 0 classes: " in output
    assert re.search(reason, output)
