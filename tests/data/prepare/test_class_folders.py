"""Which files of class folders are read, and that the others are counted and named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from archives import split_samples, zipped
from trees import images, write_files

from nepa_scale.data.prepare.__main__ import main
from nepa_scale.data.sources import open_source

PLAIN = images("train/cat/1.jpg", "train/cat/2.jpg", "train/dog/1.jpg", "val/cat/1.jpg", "val/dog/1.jpg")


def prepare(source: Path, *words: str) -> int:
    """Run the command in this process."""
    return main(["folder", f"source={source}", f"root={source.parent / 'data'}", "name=photos", "workers=1", *words])


def info(source: Path) -> dict[str, Any]:
    """What was written beside the shards."""
    return json.loads((source.parent / "data" / "photos" / "_info.json").read_text())


def stored(source: Path, split: str) -> list[tuple[bytes, str]]:
    """The bytes and the class name of every image of a split."""
    read, names = open_source(source.parent / "data", "photos", split), info(source)["class_names"]
    return sorted((read[index].image, names[read[index].label]) for index in range(len(read)))


def by_class(files: dict[str, bytes], split: str) -> list[tuple[bytes, str]]:
    """What must be stored of these files."""
    return sorted((content, name.split("/")[1]) for name, content in files.items() if name.startswith(f"{split}/"))


def test_what_is_not_read_is_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Hidden files, folders of systems, other formats and stray images are no samples, and each kind has its count."""
    odd = images(
        "train/cat/.ipynb_checkpoints/1-checkpoint.jpg",
        "train/.ipynb_checkpoints/1-checkpoint.jpg",
        "train/cat/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg",
        "train/@eaDir/2.jpg",
        "__MACOSX/train/cat/._1.jpg",
        "train/__MACOSX/cat/1.jpg",
        "train/cat/._1.jpg",
        "train/.hidden/1.jpg",
        "train/stray.jpg",
        "test/cat/1.jpg",
        "test/cat/2.jpg",
    )
    texts = {"train/cat/Thumbs.db": "x", "train/cat/3.HEIC": "x", "train/dog/4.heic": "x", "README": "x"}
    source = write_files(tmp_path / "source", {**PLAIN, **odd, **texts})
    assert prepare(source) == 0
    assert info(source)["class_names"] == ["cat", "dog"]
    for split, folder in (("train", "train"), ("validation", "val")):
        assert stored(source, split) == by_class(PLAIN, folder)
    left_out = info(source)["left_out"]
    assert {kind: entry["count"] for kind, entry in left_out.items()} == {
        "files in '.ipynb_checkpoints' folders": 2,
        "files in '@eaDir' folders": 2,
        "files in '__MACOSX' folders": 2,
        "files in '.hidden' folders": 1,
        "hidden files": 1,
        "files in 'test' folders": 2,
        ".jpg files": 1,
        ".db files": 1,
        ".heic files": 2,
        "files without an extension": 1,
    }
    printed = capsys.readouterr().out
    for kind, entry in left_out.items():
        assert any(
            kind in line and entry["example"] in line and line.startswith("not read") for line in printed.splitlines()
        )


FORMATS = ["jpg", "JPG", "jpeg", "JPEG", "jfif", "png", "PNG", "webp", "bmp", "gif", "tif", "TIFF", "ppm", "pgm"]


def test_every_format_that_is_decoded_is_read(tmp_path: Path) -> None:
    """Extensions in small and capital letters; bytes are unchanged, and nothing is left out."""
    files = images(*(f"train/cat/{index}.{suffix}" for index, suffix in enumerate(FORMATS)))
    source = write_files(tmp_path / "source", {**PLAIN, **files})
    assert prepare(source) == 0
    assert stored(source, "train") == by_class({**PLAIN, **files}, "train")
    assert "left_out" not in info(source)
    assert main(["verify", f"root={tmp_path / 'data'}", "name=photos", "workers=1"]) == 0


def test_links_to_folders(tmp_path: Path) -> None:
    """Folders elsewhere are read once; circles and folders inside the source are counted, and end."""
    elsewhere = write_files(tmp_path / "elsewhere", images("a/5.jpg", "a/deep/6.jpg", "b/7.jpg"))
    source = write_files(tmp_path / "source", PLAIN)
    (source / "train" / "cat" / "more").symlink_to(elsewhere / "a")
    (source / "train" / "owl").symlink_to(elsewhere / "b")
    (source / "train" / "cat" / "again").symlink_to(source / "train" / "dog")
    (source / "train" / "cat" / "circle").symlink_to(source)
    (source / "train" / "dog" / "above").symlink_to(tmp_path)
    (elsewhere / "a" / "deep" / "circle").symlink_to(elsewhere / "a")
    (source / "train" / "dog" / "twice").symlink_to(elsewhere / "a" / "deep")
    assert prepare(source) == 0
    expected = by_class(PLAIN, "train")
    expected += [((elsewhere / name).read_bytes(), "cat") for name in ("a/5.jpg", "a/deep/6.jpg")]
    assert stored(source, "train") == sorted([*expected, ((elsewhere / "b" / "7.jpg").read_bytes(), "owl")])
    ((kind, entry),) = info(source)["left_out"].items()
    assert "links to folders" in kind
    assert entry["count"] == 5


@pytest.mark.parametrize("other", ["validation", "valid", "Val"])
def test_two_folders_for_one_split_are_an_error(tmp_path: Path, other: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither wins: both are named."""
    source = write_files(tmp_path / "source", {**PLAIN, **images(f"{other}/cat/9.jpg")})
    assert prepare(source) == 2
    error = capsys.readouterr().err
    assert str(source / "val") in error
    assert str(source / other) in error
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["valid", "validation", "VAL"])
def test_names_of_the_validation_folder(tmp_path: Path, name: str) -> None:
    """The usual names are understood."""
    files = {key.replace("val/", f"{name}/"): content for key, content in PLAIN.items()}
    source = write_files(tmp_path / "source", files)
    assert prepare(source) == 0
    assert stored(source, "validation") == by_class(files, name)


def test_a_zip_file_gives_what_its_folder_gives(tmp_path: Path) -> None:
    """Also with the folder of the data set around it, and with what macOS adds."""
    odd = images("photographs/train/cat/.hidden.jpg", "__MACOSX/photographs/train/cat/._1.jpg")
    source = write_files(tmp_path / "a" / "source", {**{f"photographs/{k}": v for k, v in PLAIN.items()}, **odd})
    archive = zipped(source, tmp_path / "b.zip")
    assert prepare(source) == prepare(archive) == 0
    for split in ("train", "validation"):
        assert split_samples(tmp_path / "data" / "photos", split) == split_samples(tmp_path / "a/data/photos", split)
    assert info(archive)["left_out"] == info(source)["left_out"]


@pytest.mark.parametrize("prefix", ["train/", "", "flowers/"])
def test_validation_images_are_taken_out_of_the_training_images(
    tmp_path: Path, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same part of each class, the same in each place, none of them left in training; stated where one looks."""
    counts = {"cat": 20, "dog": 10, "owl": 2, "yak": 1}
    files = images(*(f"{prefix}{name}/{index}.png" for name, count in counts.items() for index in range(count)))
    for place in ("a", "b"):
        source = write_files(tmp_path / place / "source", files)
        assert prepare(source, "val_fraction=0.2") == 0
    train, validation = stored(source, "train"), stored(source, "validation")
    assert {name: sum(name == label for _, label in validation) for name in counts} == {
        "cat": 4,
        "dog": 2,
        "owl": 1,
        "yak": 0,
    }
    everything = sorted((content, name.removeprefix(prefix).split("/")[0]) for name, content in files.items())
    assert sorted(train + validation) == everything
    assert (tmp_path / "a/data/photos/SHA256SUMS").read_text() == (tmp_path / "b/data/photos/SHA256SUMS").read_text()
    assert info(source)["prepared"]["val_fraction"] == 0.2
    printed = capsys.readouterr().out
    assert "7 of 33 images" in printed
    assert "1 of 4 classes have no validation images: yak" in printed


def test_val_fraction_needs_a_set_without_validation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where there are validation images the setting is refused; where there are none it is advised."""
    source = write_files(tmp_path / "source", PLAIN)
    assert prepare(source, "val_fraction=0.2") == 2
    assert str(source / "val") in capsys.readouterr().err
    (source / "val").rename(source / "test")
    assert prepare(source) == 2
    error = capsys.readouterr().err
    assert "val_fraction=0.1" in error
    assert "test/" in error
    assert prepare(source, "val_fraction=0.1") == 0


@pytest.mark.parametrize("value", ["0", "1", "-0.1", "nan", "inf", "ten", ""])
def test_fractions_lie_between_none_and_all(tmp_path: Path, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Another number is refused by its key."""
    assert prepare(tmp_path, f"val_fraction={value}") == 2
    assert capsys.readouterr().err.startswith("error: val_fraction=")


def test_deeper_folders_belong_to_their_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The outermost folder is the class, which is said, as it may not be what was meant."""
    files = {**PLAIN, **images("train/cat/big/1.jpg", "train/cat/big/old/2.jpg")}
    source = write_files(tmp_path / "source", files)
    assert prepare(source) == 0
    assert stored(source, "train") == by_class(files, "train")
    assert "2 images in folders inside class folders" in capsys.readouterr().out


def test_flat_validation_images_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Images without class folders are named with their number."""
    files = {**images("train/cat/1.jpg", "val/1.jpg", "val/2.jpg")}
    source = write_files(tmp_path / "source", files)
    assert prepare(source) == 2
    assert f"'{source / 'val'}' has no class folders, but 2 images" in capsys.readouterr().err


def test_names_that_look_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same letters in two forms of Unicode are one class across splits, and an error within one."""
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    source = write_files(tmp_path / "source", {**PLAIN, **images(f"train/{composed}/1.jpg", f"val/{decomposed}/1.jpg")})
    assert prepare(source) == 0
    assert composed in {name for _, name in stored(source, "validation")}
    write_files(source, images(f"train/{decomposed}/2.jpg"))
    assert prepare(source, "name=other") == 2
    error = capsys.readouterr().err
    assert ascii(composed) in error
    assert ascii(decomposed) in error


@pytest.mark.parametrize("how", ["broken link", "circular link", "pipe"])
def test_an_image_that_cannot_be_opened_is_an_error(
    tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is named at once; nothing hangs."""
    source = write_files(tmp_path / "source", PLAIN)
    path = source / "train" / "cat" / "odd.jpg"
    if how == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "gone" if how == "broken link" else path)
    assert prepare(source) == 2
    assert str(path) in capsys.readouterr().err


def test_several_sets_in_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both are named; none is chosen."""
    source = write_files(tmp_path / "source", {f"{name}/{key}": value for name in "ab" for key, value in PLAIN.items()})
    assert prepare(source) == 2
    error = capsys.readouterr().err
    assert str(source / "a") in error
    assert str(source / "b") in error


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_names_of_classes_do_not_follow_the_locale(tmp_path: Path, locale: str) -> None:
    """The same folders give the same names under an encoding that has no such letters."""
    files = images(*(f"{split}/{name}/1.jpg" for split in ("train", "val") for name in ("é", "日本")))
    source = write_files(tmp_path / "source", files)
    words = ["folder", f"source={source}", f"root={tmp_path / 'data'}", "name=pets", "workers=1"]
    plain = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run(
        [sys.executable, "-m", "nepa_scale.data.prepare", *words], env={**os.environ, **plain}, check=True, timeout=120
    )
    content = json.loads((tmp_path / "data" / "pets" / "_info.json").read_text(encoding="utf-8"))
    assert content["class_names"] == ["é", "日本"]
