"""ADE20K from its folder and from its zip file."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from archives import digests, picture, split_samples, zipped
from PIL import Image

from nepa_scale.data import layout
from nepa_scale.data.prepare import listing
from nepa_scale.data.prepare.__main__ import main
from nepa_scale.data.sources import open_source

NAME = "ADEChallengeData2016"


def prepare(source: Path, root: Path, *words: str) -> int:
    """Run the command in this process."""
    return main(["ade20k", f"source={source}", f"root={root}", "name=street", "workers=1", *words])


@pytest.mark.parametrize("prefix", [f"{NAME}/", ""])
def test_a_zip_file_gives_what_its_folder_gives(ade_root: Path, tmp_path: Path, prefix: str) -> None:
    """The same shards and facts, byte for byte, and masks as they were; nothing is extracted."""
    base = ade_root / "street" / NAME
    archive = zipped(base, tmp_path / f"{NAME}.zip", prefix)
    before = set(tmp_path.rglob("*"))
    assert prepare(archive, tmp_path / "from_zip") == 0
    assert {path.relative_to(tmp_path).parts[0] for path in set(tmp_path.rglob("*")) - before} == {"from_zip"}
    assert prepare(base, tmp_path / "from_folder") == 0
    tars = [digests(tmp_path / root / "street") for root in ("from_zip", "from_folder")]
    for kind in ("train-000000.tar", "validation-000000.tar"):
        assert tars[0][kind] == tars[1][kind]
    for split, folder in (("train", "training"), ("validation", "validation")):
        for key, sample in split_samples(tmp_path / "from_zip" / "street", split).items():
            assert sample["seg.png"] == (base / "annotations" / folder / f"{key}.png").read_bytes()
            assert sample["jpg"] == (base / "images" / folder / f"{key}.jpg").read_bytes()


def test_masks_are_resized_with_their_image(ade_root: Path, tmp_path: Path) -> None:
    """A smaller mask has its image's size and only values that were there."""
    assert prepare(ade_root / "street", tmp_path / "data", "resize=16") == 0
    for key, sample in split_samples(tmp_path / "data" / "street", "train").items():
        mask = Image.open(io.BytesIO(sample["seg.png"]))
        original = Image.open(ade_root / "street" / NAME / "annotations" / "training" / f"{key}.png")
        assert mask.size == Image.open(io.BytesIO(sample["jpg"])).size == (24, 16)
        np.testing.assert_array_equal(np.asarray(mask), np.asarray(original.resize((24, 16), Image.Resampling.NEAREST)))


def hostile(path: Path, how: str) -> None:
    """Write a zip file that is good but for one member."""
    mask = io.BytesIO()
    Image.new("L", (22, 18), 3).save(mask, "PNG")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for split in ("training", "validation"):
            archive.writestr(f"{NAME}/images/{split}/a.jpg", picture(1))
            archive.writestr(f"{NAME}/annotations/{split}/a.png", mask.getvalue())
        if how == "outside":
            archive.writestr("../../escaped.jpg", picture(2))
            archive.writestr(f"{NAME}/images/training/../../../../escaped.jpg", picture(2))
            archive.writestr("/absolute.jpg", picture(2))
        elif how == "link":
            member = zipfile.ZipInfo(f"{NAME}/images/training/b.jpg")
            member.external_attr = 0o120777 << 16
            archive.writestr(member, "/etc/passwd")
            archive.writestr(f"{NAME}/annotations/training/b.png", mask.getvalue())
        elif how == "long name":
            archive.writestr("x" * 4000, b"")
            archive.writestr(f"{NAME}/a\nb.pkl", b"cos\nsystem\n(S'touch escaped'\ntR.")
        elif how == "long key":
            archive.writestr(f"{NAME}/images/training/{'x' * 300}.jpg", picture(2))
            archive.writestr(f"{NAME}/annotations/training/{'x' * 300}.png", mask.getvalue())
        elif how == "twice":
            with pytest.warns(UserWarning, match="Duplicate name"):
                archive.writestr(f"{NAME}/images/training/a.jpg", picture(2))
        elif how == "bomb":
            archive.writestr(f"{NAME}/images/training/b.jpg", b"\0" * 5000)
    content = bytearray(path.read_bytes())
    if how == "encrypted":
        at = content.index(b"PK\x01\x02")
        content[at + 8] |= 1
    elif how == "damaged":
        content[90:110] = b"\0" * 20
    elif how == "cut off":
        del content[-60:]
    elif how == "size lie":  # the directory says 5 bytes
        at = content.index(b"PK\x01\x02")
        content[at + 24 : at + 28] = struct.pack("<I", 5)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ("outside", None),
        ("long name", None),
        ("link", "'ADEChallengeData2016/images/training/b.jpg': the image cannot be decoded"),
        ("long key", "a name of up to 255 printable bytes is expected"),
        ("twice", "holds a name twice: 'ADEChallengeData2016/images/training/a.jpg'"),
        ("bomb", "holds a member of more than 4,000 bytes"),
        ("encrypted", "is encrypted: a password is not supported"),
        ("damaged", "is damaged"),
        ("cut off", "is not a complete zip file"),
        ("size lie", "1 of 2 images cannot be used"),
    ],
)
def test_hostile_zip_files(
    tmp_path: Path,
    how: str,
    complaint: str | None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Members that are no part of ADE20K are passed over, others refused; nothing appears outside the output."""
    monkeypatch.setattr(listing, "LARGEST", 4000)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    hostile(folder / "hostile.zip", how)
    code = prepare(folder / "hostile.zip", folder / "data")
    error = capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"a"}
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"b"}
    assert {path.name for path in folder.iterdir()} <= {"hostile.zip", "data"}
    if complaint is None:
        assert code == 0
        assert list(split_samples(folder / "data" / "street", "train")) == ["a"]
    else:
        assert code == 2
        assert complaint in error
        assert len(error.splitlines()) == 1


def test_a_source_that_is_neither(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A tar file, a text and nothing at all are refused in one line."""
    (tmp_path / "text.zip").write_text("not found")
    with tarfile.open(tmp_path / "x.tar", "w"):
        pass
    for name, complaint in (
        ("text.zip", "not a complete zip"),
        ("x.tar", "not a complete zip"),
        ("none", "does not exist"),
    ):
        assert prepare(tmp_path / name, tmp_path / "data") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert complaint in line


def test_what_is_not_read_is_counted(ade_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By preparing a folder, by preparing its zip file and by verifying the folder that is read directly."""
    base = ade_root / "street" / NAME
    odd = ("images/training/.DS_Store", "images/training/a.heic", "images/training/deeper/b.jpg", "notes.pdf")
    for name in (*odd, "annotations/training/@eaDir/ADE_training_0.png", "annotations/training/ADE_gone.png"):
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    expected = {
        "hidden files": 1,
        ".heic files": 1,
        ".pdf files": 1,
        ".png files": 1,
        "files in 'deeper' folders": 1,
        "files in '@eaDir' folders": 1,
    }
    archive = zipped(base, tmp_path / f"{NAME}.zip", f"{NAME}/")
    for source, root in ((base, tmp_path / "a"), (archive, tmp_path / "b")):
        assert prepare(source, root) == 0
        left_out = json.loads((root / "street" / "_info.json").read_text())["left_out"]
        assert {kind: entry["count"] for kind, entry in left_out.items()} == expected
    capsys.readouterr()
    main(["verify", f"root={ade_root}", "name=street", "workers=1"])
    lines = capsys.readouterr().out
    assert all(f"not read: {kind}: {count}" in lines for kind, count in expected.items())


def test_photographs_in_every_format_have_their_masks(ade_root: Path, tmp_path: Path) -> None:
    """Photographs that are decoded are read, prepared or directly; those without a mask are named."""
    base = ade_root / "street" / NAME
    for index, (suffix, image_format) in enumerate({"webp": "WEBP", "BMP": "BMP", "tif": "TIFF"}.items()):
        (base / f"images/training/new_{index}.{suffix}").write_bytes(picture(index, image_format=image_format))
        Image.new("L", (22, 18), 3).save(base / f"annotations/training/new_{index}.png")
    assert prepare(base, tmp_path / "data") == 0
    for root in (ade_root, tmp_path / "data"):
        assert layout.check_dataset(root, "street", needs={"mask"}) == []
        assert len(open_source(root, "street", "train")) == 6
    (base / "annotations/training/new_0.png").unlink()
    assert any("new_0.webp" in line for line in layout.check_dataset(ade_root, "street"))
