"""ImageNet from the official archives."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from archives import KIT, VALIDATION_IDS, WNIDS, devkit, imagenet, link, picture, split_samples, tar_bytes, train_images

from nepa_scale.data import layout
from nepa_scale.data.prepare.__main__ import main

RANK = {wnid: rank for rank, wnid in enumerate(sorted(WNIDS))}
TRAIN, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"


def prepare(source: Path, root: Path, *words: str) -> int:
    """Run the command in this process."""
    return main(["imagenet", f"source={source}", f"root={root}", "name=imagenet", "workers=1", *words])


def test_the_archives_become_shards(tmp_path: Path) -> None:
    """Every image is there once, byte for byte, under its own name and with the rank of its wnid as class."""
    assert prepare(imagenet(tmp_path / "source"), tmp_path / "data", "shard_size=5") == 0
    assert layout.check_dataset(tmp_path / "data", "imagenet", needs={"label"}) == []
    folder = tmp_path / "data" / "imagenet"
    expected = {
        name.removesuffix(".JPEG"): {"jpg": content, "cls": str(RANK[wnid]).encode()}
        for wnid, images in train_images().items()
        for name, content in images.items()
    }
    assert split_samples(folder, "train") == expected
    assert list(split_samples(folder, "train")) != list(expected)  # mixed
    assert split_samples(folder, "validation") == {
        f"ILSVRC2012_val_{number:08d}": {
            "jpg": picture(900 + number),
            "cls": str(RANK[WNIDS[identifier - 1]]).encode(),
        }
        for number, identifier in enumerate(VALIDATION_IDS, start=1)
    }
    assert list(layout.dataset_info(tmp_path / "data", "imagenet").class_names) == sorted(WNIDS)


def test_extracted_archives_are_read_as_class_folders(class_folders: Path, tmp_path: Path) -> None:
    """A folder with train/ and val/ is what the archives become when they are extracted."""
    assert prepare(class_folders, tmp_path / "data") == 0
    assert layout.dataset_info(tmp_path / "data", "imagenet").class_names == ("n01", "n02")


def test_files_beside_the_archives_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The archive of test images, for example, is named as not read."""
    source = imagenet(tmp_path / "source")
    (source / "ILSVRC2012_img_test_v10102019.tar").write_bytes(b"")
    assert prepare(source, tmp_path / "data") == 0
    assert "not read: .tar files: 1, such as 'ILSVRC2012_img_test_v10102019.tar'" in capsys.readouterr().out


def spoil(source: Path, how: str) -> None:  # noqa: PLR0912
    """Make the source unusable in one way."""
    train, validation, kit = source / TRAIN, source / VALIDATION, source / f"{KIT}.tar.gz"
    inner = {f"{wnid}.tar": tar_bytes(images) for wnid, images in train_images().items()}
    if how == "no kit":
        kit.unlink()
    elif how == "kit is text":
        kit.write_text("not found")
    elif how == "kit without labels":
        kit.write_bytes(tar_bytes({f"{KIT}/data/meta.mat": b""}, "w:gz"))
    elif how == "table is damaged":
        files = {f"{KIT}/data/meta.mat": b"MATLAB 5.0", f"{KIT}/data/ILSVRC2012_validation_ground_truth.txt": b"1\n"}
        kit.write_bytes(tar_bytes(files, "w:gz"))
    elif how == "label out of range":
        kit.write_bytes(devkit(ids=[3, 1, 2, 2, 77]))
    elif how == "fewer labels":
        kit.write_bytes(devkit(ids=VALIDATION_IDS[:4]))
    elif how == "unknown class":
        train.write_bytes(tar_bytes({**inner, "n00000099.tar": b""}))
    elif how == "class is missing":
        train.write_bytes(tar_bytes(dict(list(inner.items())[:2])))
    elif how == "train is cut off":
        train.write_bytes(train.read_bytes()[:3000])
    elif how == "train is text":
        train.write_text("<html>" * 500)
    elif how == "inner is cut off":
        train.write_bytes(tar_bytes({**inner, f"{WNIDS[0]}.tar": inner[f"{WNIDS[0]}.tar"][:900]}))
    elif how == "outer path":
        train.write_bytes(tar_bytes({**inner, "../../escaped.tar": b"x"}))
    elif how == "outer link":
        train.write_bytes(tar_bytes([*inner.items(), (link("n00000002.tar", "/etc/passwd"), b"")]))
    elif how == "inner link":
        member = link("n00000002_9.JPEG", "/etc/passwd")
        train.write_bytes(tar_bytes({**inner, f"{WNIDS[0]}.tar": tar_bytes([(member, b"")])}))
    elif how == "inner device":
        member = link("n00000002_9.JPEG", "", tarfile.BLKTYPE)
        train.write_bytes(tar_bytes({**inner, f"{WNIDS[0]}.tar": tar_bytes([(member, b"")])}))
    elif how == "inner path":
        train.write_bytes(tar_bytes({**inner, f"{WNIDS[0]}.tar": tar_bytes({"../n00000002_1.JPEG": b"x"})}))
    elif how == "strange name":
        validation.write_bytes(tar_bytes({"a\nb" + "x" * 4000: b"x"}))


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ("no kit", "ILSVRC2012_devkit_t12.tar.gz' is missing"),
        ("kit is text", "is not a complete .tar.gz file"),
        ("kit without labels", "has no data/ILSVRC2012_validation_ground_truth.txt"),
        ("table is damaged", "is not the published table"),
        ("label out of range", "line 5: '77' is no class of data/meta.mat"),
        ("fewer labels", "which is no new image ILSVRC2012_val_N.JPEG with N up to 4"),
        ("unknown class", "holds 'n00000099.tar', which is no archive of a class"),
        ("class is missing", "lacks 1 of 3 classes: n00000005"),
        ("train is cut off", "is cut off"),
        ("train is text", "is not a complete tar file"),
        ("inner is cut off", "n00000002.tar' is cut off"),
        ("outer path", "holds '../../escaped.tar', which is no archive of a class"),
        ("outer link", "holds 'n00000002.tar', which is no archive of a class"),
        ("inner link", "holds 'n00000002_9.JPEG', which is no new image"),
        ("inner device", "holds 'n00000002_9.JPEG', which is no new image"),
        ("inner path", "holds '../n00000002_1.JPEG', which is no new image"),
        ("strange name", "holds 'a\\nbxxx"),
    ],
)
def test_archives_that_are_not_as_published_are_refused(
    tmp_path: Path, how: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that names the file and what is wrong, exit code 2, nothing written anywhere."""
    source = imagenet(tmp_path / "source")
    spoil(source, how)
    before = sorted(tmp_path.rglob("*"))
    assert prepare(source, tmp_path / "data") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line
    assert len(line) < 600
    assert sorted(tmp_path.rglob("*")) == before
