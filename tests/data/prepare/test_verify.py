"""The command that lists every fault of a data set."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from archives import link, picture, tar_bytes
from PIL import Image

from nepa_scale.data import layout
from nepa_scale.data.prepare.__main__ import main
from nepa_scale.data.prepare.finishing import sum_of, write_sums


def png(pixels: np.ndarray) -> bytes:
    """Encoded pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def tiff(pixels: np.ndarray) -> bytes:
    """Encoded pixels of kinds that a PNG cannot have."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "TIFF")
    return buffer.getvalue()


def members(index: int) -> dict[str, bytes]:
    """The files of one good sample."""
    mask = np.full((18, 22), index % 4, dtype=np.uint8)
    return {f"s{index}.jpg": picture(index), f"s{index}.cls": b"%d" % (index % 3), f"s{index}.seg.png": png(mask)}


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A data set of two training shards and one of validation, with labels, masks and checksums."""
    folder = tmp_path / "data" / "toy"
    folder.mkdir(parents=True)
    splits = {}
    for split, shards in (("train", [range(3), range(3, 5)]), ("validation", [range(5, 7)])):
        names = [f"{split}-{number}.tar" for number in range(len(shards))]
        for name, indices in zip(names, shards, strict=True):
            files = {key: value for index in indices for key, value in members(index).items()}
            (folder / name).write_bytes(tar_bytes(files))
        lengths = [len(indices) for indices in shards]
        splits[split] = {"filenames": names, "shard_lengths": lengths, "num_samples": sum(lengths)}
    info = {"num_classes": 3, "mask_class_names": ["a", "b", "c"], "splits": splits}
    (folder / "_info.json").write_text(json.dumps(info))
    sums(folder)
    return folder


def sums(folder: Path) -> None:
    """Write the checksums of what is there now."""
    write_sums(
        folder, {path.name: sum_of(path) for path in folder.iterdir() if path.is_file() and path.name != "SHA256SUMS"}
    )


def verify(folder: Path) -> int:
    """Run the command in this process."""
    return main(["verify", f"root={folder.parent}", f"name={folder.name}", "workers=1"])


def replace(folder: Path, change: Callable[[dict[str, bytes]], object]) -> None:
    """Change the members of the first shard and make its checksum true again."""
    files = {name: content for index in range(3) for name, content in members(index).items()}
    change(files)
    (folder / "train-0.tar").write_bytes(tar_bytes(files))
    sums(folder)


def test_a_good_data_set_has_no_fault(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0 and the number of images."""
    assert verify(toy) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{toy}: 7 images checked, no fault"


def test_without_checksums_it_says_so(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A data set from elsewhere can be checked too, with what cannot be noticed."""
    (toy / "SHA256SUMS").unlink()
    assert verify(toy) == 0
    assert "has no SHA256SUMS" in capsys.readouterr().out


CASES = {
    "not an image": (lambda files: files.update({"s1.jpg": b"<html>"}), "sample 's1': the image cannot be decoded"),
    "cut off": (
        lambda files: files.update({"s1.jpg": files["s1.jpg"][:200]}),
        "sample 's1': the image cannot be decod",
    ),
    "no image": (lambda files: files.pop("s2.jpg"), "sample 's2': no image"),
    "no label": (lambda files: files.pop("s2.cls"), "sample 's2': no label (.cls)"),
    "label is text": (lambda files: files.update({"s0.cls": b"cat"}), "must hold a class from 0 to 2, holds b'cat'"),
    "negative label": (lambda files: files.update({"s0.cls": b"-1"}), "must hold a class from 0 to 2, holds b'-1'"),
    "label out of range": (lambda files: files.update({"s0.cls": b"3"}), "class 3 is out of range: there are 3"),
    "no mask": (lambda files: files.pop("s1.seg.png"), "sample 's1': no mask (.seg.png)"),
    "mask is RGB": (
        lambda files: files.update({"s1.seg.png": png(np.zeros((18, 22, 3), np.uint8))}),
        "mask must be an 8-bit one-channel PNG, its mode is RGB",
    ),
    "mask of other size": (
        lambda files: files.update({"s1.seg.png": png(np.zeros((5, 5), np.uint8))}),
        "the image is 22x18 pixels, its mask 5x5 pixels",
    ),
    "mask value": (
        lambda files: files.update({"s1.seg.png": png(np.full((18, 22), 9, np.uint8))}),
        "the mask holds the value 9, but there are 3 classes",
    ),
    "one more": (lambda files: files.update({"x.jpg": picture(1), "x.cls": b"0"}), "must hold 3 samples"),
    "outside": (lambda files: files.update({"../../x.jpg": b"x"}), "'../../x.jpg' has a name that points outside"),
    "absolute": (lambda files: files.update({"/x.jpg": b"x"}), "'/x.jpg' has a name that points outside"),
    "control characters": (lambda files: files.update({"a\nb.jpg": b"x"}), "characters that cannot be printed"),
    "long name": (lambda files: files.update({"x" * 4000 + ".jpg": b"x"}), "has a name of more than 255 bytes"),
    "pickle": (lambda files: files.update({"s1.pkl": b"x"}), "'s1.pkl' is pickled"),
    "key in two shards": (lambda files: files.update({"s4.jpg": picture(4)}), "train-0.tar and train-1.tar hold 's4'"),
    "dots in a name": (
        lambda files: files.update({"x.1.jpg": picture(1), "x.1.cls": b"0"}),
        "sample 'x': no image (.jpg, .jpeg or .png), only .1.cls, .1.jpg; as in webdataset",
    ),
    "webp": (lambda files: files.update({"x.webp": b"x"}), "sample 'x': no image (.jpg, .jpeg or .png), only .webp"),
    "32 bits a pixel": (
        lambda files: files.update({"s1.jpg": tiff(np.zeros((18, 22), np.float32))}),
        "sample 's1': the image has 32 bits a pixel",
    ),
    "16-bit mask": (
        lambda files: files.update({"s1.seg.png": png(np.zeros((18, 22), np.uint16))}),
        "mask must be an 8-bit one-channel PNG, its mode is I",
    ),
    "two images": (lambda files: files.update({"s1.png": b"x"}), "sample 's1' has two members 'image'"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_fault_of_a_sample_is_named(toy: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The shard, the sample and what is wrong; the exit code is 1."""
    change, complaint = CASES[case]
    replace(toy, change)
    assert verify(toy) == 1
    faults = [line for line in capsys.readouterr().out.splitlines() if "train-0.tar" in line]
    assert any(complaint in line for line in faults), faults
    assert all(len(line) < 400 for line in faults)


def test_what_is_not_read_is_remarked(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Members that are no part of a sample are counted by kind, and are no fault."""
    replace(toy, lambda files: files.update({"s0.json": b"{}", "s1.json": b"{}", "s1.depth.png": b"x", "README": b""}))
    assert verify(toy) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not read")]
    for part in ("2 '.json' (such as 's0.json')", "1 '.png' (such as 's1.depth.png')", "1 'without extension'"):
        assert part in line


def test_images_of_16_bits_are_remarked(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are read, with half of their bits: whoever stored 12 of 16 should know."""
    replace(toy, lambda files: files.update({"s1.jpg": png(np.zeros((18, 22), np.uint16))}))
    assert verify(toy) == 0
    assert "1 images have one channel of 16 bits" in capsys.readouterr().out


def test_masks_without_any_label_are_a_fault(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A single one is not, but a split of them cannot be trained on or scored."""
    empty = png(np.zeros((18, 22), np.uint8))
    replace(toy, lambda files: files.update({"s1.seg.png": empty}))
    assert verify(toy) == 0
    files = {name: content for index in (5, 6) for name, content in members(index).items()}
    (toy / "validation-0.tar").write_bytes(tar_bytes(files | {"s5.seg.png": empty, "s6.seg.png": empty}))
    sums(toy)
    capsys.readouterr()
    assert verify(toy) == 1
    assert "no pixel of the 2 masks of the validation split is labelled" in capsys.readouterr().out


def test_parts_that_names_state_must_be_there(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A list of one shard of three is an incomplete set, whatever wrote it."""
    (toy / "validation-0.tar").rename(toy / "validation-0-of-3.tar")
    info = json.loads((toy / "_info.json").read_text())
    info["splits"]["validation"]["filenames"] = ["validation-0-of-3.tar"]
    (toy / "_info.json").write_text(json.dumps(info))
    sums(toy)
    assert verify(toy) == 1
    assert "has 1 of 3 files 'validation-*': missing 1, 2" in capsys.readouterr().out


def test_all_faults_are_listed_together(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Faults of the folder, of shards and of samples in one report."""
    replace(toy, lambda files: files.update({"s0.jpg": b"x", "s1.cls": b"x", "s2.cls": b"9"}))
    (toy / "notes.txt").write_text("")
    shard = toy / "train-1.tar"
    content = bytearray(shard.read_bytes())
    content[600] ^= 1
    shard.write_bytes(content)
    (toy / "validation-0.tar").write_bytes((toy / "validation-0.tar").read_bytes()[:1000])
    assert verify(toy) == 1
    text = capsys.readouterr().out
    for expected in (
        "notes.txt' does not belong",
        "'s0': the image cannot be decoded",
        "'s1': .cls must hold",
        "'s2': class 9 is out of range",
        "train-1.tar': its SHA-256 is not that of SHA256SUMS",
        "validation-0.tar': its SHA-256",
        "validation-0.tar' is cut off",
        "faults",
        "must hold 2 samples by _info.json, but",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda folder: (folder / "train-1.tar").unlink(), "train-1.tar' is missing"),
        (lambda folder: (folder / "train-1.tar").write_bytes(b""), "train-1.tar' is empty (0 bytes)"),
        (lambda folder: (folder / "train-1.tar").write_text("no" * 600), "train-1.tar' is not a complete tar file"),
        (lambda folder: (folder / "_info.json").write_text("{"), "is not valid JSON"),
        (lambda folder: (folder / "SHA256SUMS").write_text("x\n"), "SHA256SUMS', line 1: expected a SHA-256"),
        (lambda folder: (folder / "SHA256SUMS").write_text(""), "SHA256SUMS' lacks 'train-0.tar'"),
    ],
)
def test_faults_of_the_folder(
    toy: Path, spoil: Callable[[Path], object], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing and unreadable files are faults like others."""
    spoil(toy)
    assert verify(toy) == 1
    assert complaint in capsys.readouterr().out


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_faults(toy: Path, kind: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """Members that are no files are named, never followed and never made."""
    files = [(name, content) for index in range(3) for name, content in members(index).items()]
    (toy / "train-0.tar").write_bytes(tar_bytes([*files, (link("x.jpg", "/etc/passwd", kind), b"")]))
    sums(toy)
    before = sorted(toy.parent.parent.rglob("*"))
    assert verify(toy) == 1
    assert "member 'x.jpg' is a link or a device, not a file" in capsys.readouterr().out
    assert sorted(toy.parent.parent.rglob("*")) == before


def test_a_changed_shard_needs_a_new_index(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An index that no longer fits is a fault, and the command that it names mends it."""
    words = [f"root={toy.parent}", f"name={toy.name}"]
    assert main(["index", *words]) == 0
    assert verify(toy) == 0
    replace(
        toy,
        lambda files: files.update({"s1.jpg": picture(77, (30, 18)), "s1.seg.png": png(np.zeros((18, 30), np.uint8))}),
    )
    assert verify(toy) == 1
    assert "changed since it was indexed" in capsys.readouterr().out
    assert main(["index", *words]) == 0
    assert verify(toy) == 0


def test_ade20k_folders_are_checked_directly(ade_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without shards and checksums, every photograph and mask is looked at all the same."""
    words = ["verify", f"root={ade_root}", "name=street", "workers=1"]
    assert main(words) == 0
    assert "5 images checked, no fault" in capsys.readouterr().out
    base = ade_root / "street" / "ADEChallengeData2016"
    Image.new("L", (30, 20), 151).save(base / "annotations" / "training" / "ADE_training_0.png")
    Image.new("RGB", (30, 20)).save(base / "annotations" / "training" / "ADE_training_1.png")
    (base / "images" / "training" / "ADE_training_2.jpg").write_text("<html>")
    (base / "images" / "validation" / "ADE_validation_0.jpg").unlink()
    assert main(words) == 1
    text = capsys.readouterr().out
    for expected in (
        "the value 151, but there are 150",
        "its mode is RGB",
        "cannot be decoded",
        "without a photograph",
    ):
        assert expected in text


def test_an_ade20k_folder_without_any_label(ade_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Read directly or prepared, a split in which nothing is labelled is refused."""
    base = ade_root / "street" / "ADEChallengeData2016"
    for path in (base / "annotations" / "training").glob("*.png"):
        Image.new("L", (30, 20), 0).save(path)
    assert main(["verify", f"root={ade_root}", "name=street", "workers=1"]) == 1
    assert "no pixel of the 3 masks of the train split is labelled" in capsys.readouterr().out
    words = [f"source={ade_root / 'street'}", f"root={ade_root}", "name=new", "workers=1"]
    assert main(["ade20k", *words]) == 2
    assert "no pixel of the 3 masks of the train split is labelled" in capsys.readouterr().err
    assert not (ade_root / "new").exists()
    (line,) = layout.check_contents(ade_root, "street", needs=("mask",))
    assert "no pixel of 3 masks is labelled" in line
    assert layout.check_contents(ade_root, "street") == []


@pytest.mark.parametrize("kind", ["verify", "adopt", "index"])
def test_a_data_set_that_is_not_there(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt name is a user's mistake: exit code 2, with the nearest name."""
    (tmp_path / "digits").mkdir()
    assert main([kind, f"root={tmp_path}", "name=digit"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "did you mean 'digits'?" in line
