"""The command that writes data sets as shards."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from children import Child
from PIL import Image

from nepa_scale.data import layout
from nepa_scale.data.prepare.__main__ import main
from nepa_scale.data.sources import open_source


def names(folder: Path) -> set[str]:
    """What lies in a folder, hidden files included."""
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_class_folders_become_shards(class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every image is there once with unchanged bytes and the class of its folder; the layout is complete."""
    root = tmp_path / "data"
    assert main(["folder", f"source={class_folders}", f"root={root}", "name=photos", "shard_size=3"]) == 0
    assert "photos: written" in capsys.readouterr().out
    assert layout.check_dataset(root, "photos", needs={"label"}) == []
    info = layout.dataset_info(root, "photos")
    assert info.class_names == ("n01", "n02")
    assert info.splits["train"].shard_lengths == (3, 3, 2)
    for split, folder in (("train", "train"), ("validation", "val")):
        source = open_source(root, "photos", split)
        expected = {path.read_bytes(): path.parent.name for path in (class_folders / folder).rglob("*.*")}
        assert {source[index].image: info.class_names[source[index].label] for index in range(len(source))} == expected
        assert len(source) == len(expected)


def test_training_images_are_mixed(class_folders: Path, tmp_path: Path) -> None:
    """Readers that stream the shards must not meet one class after the other."""
    main(["folder", f"source={class_folders}", f"root={tmp_path / 'data'}", "name=photos"])
    labels = open_source(tmp_path / "data", "photos", "train").labels.tolist()
    assert sorted(labels) == [0, 0, 0, 0, 1, 1, 1, 1]
    assert labels != sorted(labels)


def test_an_ade20k_folder_becomes_shards(ade_root: Path, tmp_path: Path) -> None:
    """Names, image bytes and mask bytes are kept, split by split."""
    root = tmp_path / "data"
    assert main(["ade20k", f"source={ade_root / 'street'}", f"root={root}", "name=street"]) == 0
    assert layout.check_dataset(root, "street", needs={"mask"}) == []
    for split in ("train", "validation"):
        before, after = open_source(ade_root, "street", split), open_source(root, "street", split)
        assert [after[index] for index in range(len(after))] == [before[index] for index in range(len(before))]
        assert after.mask_classes == 150


def test_a_second_run_says_so_and_does_nothing(
    class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Finished shards are left alone; other settings for the same name are refused."""
    words = ["folder", f"source={class_folders}", f"root={tmp_path / 'data'}", "name=photos"]
    assert main(words) == 0
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "data" / "photos").iterdir()}
    assert main(words) == 0
    assert "already there, nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data" / "photos").iterdir()} == stamps
    assert main([*words, "shard_size=2"]) == 2
    assert "is not the data set asked for" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "say what to do: one of imagenet, tiny-imagenet, images, folder, parquet, ade20k"),
        (
            ["digit"],
            "'digit': not one of imagenet, tiny-imagenet, images, folder, parquet, ade20k",
        ),
        (["digits", "num_trian=5"], "unknown key 'num_trian'; did you mean 'num_train'?"),
        (["digits", "num_train=0"], "num_train=0: must be at least 1"),
        (["digits", "image_size=big"], "image_size=big: expected a whole number"),
        (["digits", "num_train"], "expected key=value"),
        (["folder", "root=r", "name=n"], "source= is missing"),
        (["folder", "source=", "root=r", "name=n"], "source= is empty; give a value"),
        (["folder", "source=s", "root=r", "name=n", "skip_bad=yes"], "skip_bad=yes: expected true or false"),
        (["folder", "source=s", "root=r", "name=n", "workers=0"], "workers=0: must be at least 1"),
        (
            ["folder", "source=s", "root=r", "name=n", "resize=big"],
            "resize=big: expected a whole number",
        ),
        (["parquet", "sorce=s", "source=s", "root=r", "name=n"], "unknown key 'sorce'; did you mean 'source'?"),
        (["verfy", "root=r", "name=n"], "adopt, index, verify; did you mean 'verify'?"),
        (["adopt", "root=r", "name=n", "source=s"], "unknown key 'source'"),
        (["imagenet", "source=s", "root=r", "name=n"], "ILSVRC2012_img_train.tar' is missing"),
        (["parquet", "source=s", "root=r", "name=n"], "'s' is no folder"),
        (["folder", "source=s", "root=r", "name=../n"], "expected the name of a folder"),
        (["folder", "source=s", "root=r", "name=n"], "'s' does not exist"),
        (["ade20k", "source=s", "root=r", "name=n"], "'s' does not exist"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A wrong command answers with one line for each mistake and exit code 2, and writes nothing."""
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert all(line.startswith("error: ") for line in printed.err.splitlines())
    assert complaint in printed.err.splitlines()[0]
    assert names(tmp_path) == set()


def spoil_class_folders(source: Path, how: str) -> None:
    """Make the class folders unusable in one way."""
    if how == "empty class":
        (source / "train" / "n03").mkdir()
    elif how == "unknown class":
        (source / "val" / "n02").rename(source / "val" / "n09")
    elif how == "no validation":
        (source / "val").rename(source / "test")


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ("empty class", "n03' has no images"),
        ("unknown class", "n09' is a class that"),
        ("no validation", "must hold train/ and validation/"),
    ],
)
def test_bad_class_folders_leave_nothing_behind(
    class_folders: Path, tmp_path: Path, how: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each defect of the source is one line; neither half a data set nor a new root remains."""
    spoil_class_folders(class_folders, how)
    assert main(["folder", f"source={class_folders}", f"root={tmp_path / 'data'}", "name=photos"]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert len(error.splitlines()) == 1
    assert names(tmp_path) == {"photographs"}


def test_bad_ade20k_folders_leave_nothing_behind(
    ade_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mask of another size, and names that would be cut at a dot, are refused by name."""
    base = ade_root / "street" / "ADEChallengeData2016"
    words = ["ade20k", f"source={ade_root / 'street'}", f"root={tmp_path / 'data'}", "name=street"]
    mask = base / "annotations" / "training" / "ADE_training_0.png"
    image = base / "images" / "training" / "ADE_training_0.jpg"
    whole = mask.read_bytes()
    Image.new("L", (5, 5)).save(mask)
    assert main(words) == 2
    assert "'images/training/ADE_training_0.jpg': the image is 30x20 pixels, its mask 5x5" in capsys.readouterr().err
    assert names(tmp_path / "data") == {".preparing-street"}
    shutil.rmtree(tmp_path / "data")
    mask.write_bytes(whole)
    mask.rename(mask.with_name("a.b.png"))
    image.rename(image.with_name("a.b.jpg"))
    assert main(words) == 2
    assert "a.b.jpg': a dot inside the name" in capsys.readouterr().err
    assert "data" not in names(tmp_path)


@pytest.mark.slow(seconds=3)
def test_a_stopped_run_leaves_nothing_behind(tmp_path: Path) -> None:
    """SIGTERM in the middle of writing removes the unfinished folder, and the root made for it."""
    root = tmp_path / "data"
    words = ["digits", f"root={root}", "num_train=200000"]
    command = [sys.executable, "-m", "nepa_scale.data.prepare", *words]
    with Child(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()  # the first shard is written
        assert any(name.startswith(".writing-") for name in names(root))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    assert names(tmp_path) == set()


def test_an_unwritable_root_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A root that cannot be made is named with the system's reason."""
    (tmp_path / "file").write_text("")
    assert main(["digits", f"root={tmp_path / 'file' / 'data'}", "num_train=10", "num_validation=10"]) == 2
    error = capsys.readouterr().err
    assert "cannot write the data set: Not a directory" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("words", [["--help"], ["folder", "nmae=x"], ["verfy"]])
def test_help_and_complaints_import_nothing_heavy(words: list[str]) -> None:
    """What needs no data answers before numpy, torch or pyarrow are imported."""
    program = (
        "import sys; from nepa_scale.data.prepare.__main__ import main; main(sys.argv[1:]); "
        "print(sorted({'numpy', 'torch', 'pyarrow', 'PIL', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_sha256sum_agrees(class_folders: Path, tmp_path: Path) -> None:
    """The checksums are in the format of the tool that everyone has, and true."""
    assert main(["folder", f"source={class_folders}", f"root={tmp_path / 'data'}", "name=photos", "shard_size=3"]) == 0
    folder = tmp_path / "data" / "photos"
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.count(": OK") == len(list(folder.glob("*.tar"))) + 1 == 6


def test_help_names_every_kind_and_key(capsys: pytest.CaptureFixture[str]) -> None:
    """--help lists what can be prepared and every key with its default."""
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for expected in (
        "digits:",
        "folder:",
        "ade20k:",
        "imagenet:",
        "parquet:",
        "adopt:",
        "index:",
        "verify:",
        "skip_bad=false",
        "num_train=4096",
        "source=",
        "shard_size=1000",
        "image_size=32",
    ):
        assert expected in text
