"""Hugging Face's parquet files."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archives import parquet, picture, split_samples

from nepa_scale.data import layout
from nepa_scale.data.prepare.__main__ import main
from nepa_scale.data.prepare.parquet import list_parquet
from nepa_scale.data.prepare.references import Reader


def prepare(source: Path, root: Path, *words: str) -> int:
    """Run the command in this process."""
    return main(["parquet", f"source={source}", f"root={root}", "name=pets", "workers=1", *words])


def rows_of(source: Path, split: str) -> list[tuple[bytes, bytes]]:
    """(image, label) of every row, read by pyarrow as a whole."""
    tables = [pq.read_table(path).to_pylist() for path in sorted((source / "data").glob(f"{split}-*"))]
    return sorted((row["image"]["bytes"], str(row["label"]).encode()) for table in tables for row in table)


@pytest.mark.parametrize("names", [("cat", "dog", "owl"), None])
def test_parquet_files_become_shards(tmp_path: Path, names: tuple[str, ...] | None) -> None:
    """Every row of train and validation is there once, byte for byte; test is left out; classes have their names."""
    source = parquet(tmp_path / "source", names=names)
    assert prepare(source, tmp_path / "data", "shard_size=11") == 0
    assert layout.check_dataset(tmp_path / "data", "pets", needs={"label"}) == []
    folder = tmp_path / "data" / "pets"
    for split in ("train", "validation"):
        written = [(sample["jpg"], sample["cls"]) for sample in split_samples(folder, split).values()]
        assert sorted(written) == rows_of(source, split)
    assert json.loads((folder / "_info.json").read_text())["class_names"] == list(names or ("0", "1", "2"))


def test_training_rows_are_mixed_by_row_group(tmp_path: Path) -> None:
    """Row groups are mixed and rows stay in order: each group is read once, from its first row to its last."""
    listing = list_parquet(parquet(tmp_path / "source"))
    places = [(item.image.path, item.image.group, item.image.row) for item in listing.splits["train"]]
    groups = [place[:2] for place in places if place[2] == 0]
    assert len(groups) == len(set(groups)) == 10
    assert groups != sorted(groups)
    assert all(after == (*before[:2], before[2] + 1) or after[2] == 0 for before, after in pairwise(places))


def test_rows_can_be_read_in_any_order(tmp_path: Path) -> None:
    """Reading on from the middle, going back and changing the file give the same bytes."""
    items = list_parquet(parquet(tmp_path / "source", rows=80)).splits["train"]
    with Reader() as reader:
        first = {item.key: reader.read(item.image) for item in items}
        backwards = {item.key: reader.read(item.image) for item in reversed(items[::9])}
    assert backwards.items() <= first.items()


def spoil(source: Path, how: str) -> None:
    """Make the source unusable in one way."""
    path = source / "data" / "train-00001-of-00002.parquet"
    image, label = {"bytes": picture(1), "path": "x"}, pa.array([0], pa.int64())
    if how == "no image":
        pq.write_table(pa.table({"picture": [image], "label": label}), path)
    elif how == "image is text":
        pq.write_table(pa.table({"image": ["x"], "label": label}), path)
    elif how == "label is text":
        pq.write_table(pa.table({"image": [image], "label": ["cat"]}), path)
    elif how == "no label":
        pq.write_table(pa.table({"image": [image], "label": pa.array([-1], pa.int64())}), path)
    elif how == "text":
        path.write_text("not found")
    elif how == "part missing":
        path.unlink()
    elif how == "validation missing":
        (source / "data" / "validation-00000-of-00001.parquet").unlink()
    elif how == "out of range":
        meta = pq.read_schema(path).metadata
        table = pa.table({"image": [image], "label": pa.array([7], pa.int64())})
        pq.write_table(table.replace_schema_metadata(meta), path)


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ("no image", "has no column 'image' of encoded images"),
        ("image is text", "has no column 'image' of encoded images"),
        ("label is text", "has no column 'label' of classes (whole numbers)"),
        ("no label", "label must be a class from 0 on, is -1"),
        ("text", "is not a complete parquet file"),
        ("part missing", "has 1 of 2 files 'train-*': missing 1"),
        ("validation missing", "has no validation files, by their names; there are: data/test-00000-of-00001.parquet"),
        ("out of range", "label 7 is out of range: 3 classes are named"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, how: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line with the file and the fault; nothing is written."""
    source = parquet(tmp_path / "source")
    spoil(source, how)
    assert prepare(source, tmp_path / "data") == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_row_without_bytes_is_a_bad_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row that only has a path is named by file, row group and row."""
    source = parquet(tmp_path / "source")
    path = source / "data" / "validation-00000-of-00001.parquet"
    table = pq.read_table(path)
    images = table.column("image").to_pylist()
    images[9]["bytes"] = None
    pq.write_table(table.set_column(0, "image", pa.array(images)), path, row_group_size=7)
    assert prepare(source, tmp_path / "data") == 2
    assert "row 2 of group 1': the row has no image bytes" in capsys.readouterr().err


def table(labels: object, *, image: str = "image", label: str = "label", as_bytes: bool = False) -> pa.Table:
    """One small picture for each label."""
    labels = labels if isinstance(labels, pa.Array) else pa.array(labels, pa.int64())
    pictures = [picture(number) for number in range(len(labels))]
    images = pictures if as_bytes else [{"bytes": each, "path": "x"} for each in pictures]
    kind = pa.binary() if as_bytes else pa.struct({"bytes": pa.binary(), "path": pa.string()})
    return pa.table({image: pa.array(images, kind), label: labels})


def write(source: Path, files: dict[str, pa.Table]) -> Path:
    """Parquet files by name."""
    for name, content in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(content, source / name)
    return source


VALID = {"data/validation-00000-of-00001.parquet": table([0, 1])}


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["train-00000-of-00003-1359597a978bc4fa"], "has 1 of 3 files 'train-*': missing 1, 2"),
        (["train-00000-of-00003-13595", "train-00002-of-00003-97a978"], "has 2 of 3 files 'train-*': missing 1"),
        (["train-00001-of-00003", "train-00002-of-00003"], "has 2 of 3 files 'train-*': missing 0"),
        (["train-00000-of-00002", "train-00001-of-00003"], "parts of several sets, of 2, 3 files"),
        (["train-00000-of-00002-aa", "train-00000-of-00002-bb"], "the same part several times"),
        (["train-00000-of-00001", "train-00004-of-00001"], "no part of 1"),
        (["train-00000-of-99999999999"], "has 1 of 99999999999 files 'train-*': missing 1, 2, 3, 4, 5 ..."),
        (["train-00000-of-00001", "train"], "with and without '-of-'"),
        (["train_00000_of_00002"], "has 1 of 2 files"),
    ],
)
def test_an_incomplete_set_is_refused(
    tmp_path: Path, names: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the names state must be there, whole and once, with a hash behind the numbers or without."""
    source = write(tmp_path / "source", VALID | {f"data/{name}.parquet": table([0, 1]) for name in names})
    assert prepare(source, tmp_path / "data") == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        (
            ["data/train-00000-of-00002-135959.parquet", "data/train-00001-of-00002-97a978.parquet"],
            "data/valid-0.parquet",
        ),
        (["train-1-of-2.parquet", "train-2-of-2.parquet"], "validation.parquet"),
        (["default/train/0000.parquet", "default/train/0001.parquet"], "default/validation/0000.parquet"),
        (["train/0000.parquet", "train/0001.parquet"], "val/0000.parquet"),
        (["pets-train-000.parquet", "pets-train-001.parquet"], "pets-val-000.parquet"),
    ],
)
def test_the_layouts_that_people_download(tmp_path: Path, train: list[str], validation: str) -> None:
    """The Hub's own names with and without hashes, its converted folders, and splits by the name of file or folder."""
    files = {
        train[0]: table([0, 1]),
        train[1]: table([2]),
        validation: table([1]),
        ".cache/train/0000.parquet": table([9]),
    }
    assert prepare(write(tmp_path / "source", files), tmp_path / "data") == 0
    info = layout.dataset_info(tmp_path / "data", "pets")
    assert (info.num_classes, info.splits["train"].num_samples, info.splits["validation"].num_samples) == (3, 3, 1)


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["a/train/0000", "b/train/0000"], "has train files in several folders: a/train, b/train"),
        (["default/partial-train/0000"], "a part of the split, by their name"),
        (["default/train/0000", "default/train/0002"], "by their numbers there are files between: 0001.parquet"),
        (["default/train-00000", "default/train-00002"], "by their numbers there are files between: train-00001"),
        (["train/train-00000-of-00001", "train/training-00000-of-00001"], "train and training could both be the train"),
        (["default/train/0002"], "by their numbers there are files between: 0000.parquet, 0001.parquet"),
    ],
)
def test_folders_that_are_not_one_whole_set(
    tmp_path: Path, names: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two configurations are not mixed, and the Hub's partial conversion is not taken for the whole."""
    files = {f"{name}.parquet": table([0]) for name in names} | {"default/validation/0000.parquet": table([0])}
    assert prepare(write(tmp_path / "source", files), tmp_path / "data") == 2
    assert complaint in capsys.readouterr().err


def cifar(rows: int = 4) -> pa.Table:
    """CIFAR-100's columns as on the Hub."""
    images = [{"bytes": picture(row, image_format="PNG"), "path": None} for row in range(rows)]
    fine, coarse = pa.array(range(rows), pa.int64()), pa.array([row % 2 for row in range(rows)], pa.int64())
    notes = {"features": {"fine_label": {"names": list("abcd")}, "coarse_label": {"names": ["x", "y"]}}}
    found = pa.table({"img": images, "fine_label": fine, "coarse_label": coarse})
    return found.replace_schema_metadata({"huggingface": json.dumps({"info": notes})})


def test_columns_of_other_names_are_found_or_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The only column of images needs no name; of two columns of classes the user says which, with its names."""
    source = write(tmp_path / "source", {"data/train.parquet": cifar(), "data/valid.parquet": cifar()})
    assert prepare(source, tmp_path / "data") == 2
    assert "label_column=fine_label or coarse_label" in capsys.readouterr().err
    for column, names in (("fine_label", tuple("abcd")), ("coarse_label", ("x", "y"))):
        assert prepare(source, tmp_path / column, f"label_column={column}") == 0
        assert layout.dataset_info(tmp_path / column, "pets").class_names == names
        stored = split_samples(tmp_path / column / "pets", "validation")
        assert [sample["png"] for sample in stored.values()] == [picture(row, image_format="PNG") for row in range(4)]
    assert prepare(source, tmp_path / "data", "label_column=labels", "image_column=image") == 2
    text = capsys.readouterr().err
    assert "has no column 'labels' of classes" in text
    assert "has no column 'image' of encoded images" in text
    coarse = cifar().rename_columns(["image", "fine_label", "label"]).append_column("thumbnail", cifar()["img"])
    usual = write(tmp_path / "usual", {"data/train.parquet": coarse, "data/valid.parquet": coarse})
    assert prepare(usual, tmp_path / "usual-data") == 0  # of several columns those that are called image and label
    stored = split_samples(tmp_path / "usual-data" / "pets", "validation")
    assert [sample["cls"] for sample in stored.values()] == [b"%d" % (row % 2) for row in range(4)]


@pytest.mark.parametrize("as_bytes", [True, False])
@pytest.mark.parametrize(("image", "label"), [("image", "label"), ("img", "labels"), ("my.picture", "target")])
def test_images_are_bytes_or_structs_of_them(tmp_path: Path, image: str, label: str, as_bytes: bool) -> None:
    """Both ways of storing encoded images, under any name, give the same shards."""
    content = table([0, 1, 0], image=image, label=label, as_bytes=as_bytes)
    source = write(tmp_path / "source", {"train.parquet": content, "validation.parquet": content})
    assert prepare(source, tmp_path / "data") == 0
    stored = split_samples(tmp_path / "data" / "pets", "validation")
    assert [(sample["jpg"], sample["cls"]) for sample in stored.values()] == [
        (picture(row), b"%d" % (row % 2)) for row in range(3)
    ]


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        (pa.array([], pa.int64()), "the train files have no rows"),
        (pa.array([300_000_000], pa.int64()), "label 300000000 is out of range: 1000000 classes are allowed"),
        (pa.array([2**63 - 1], pa.int64()), "is out of range"),
        (pa.array([2**64 - 1], pa.uint64()), "is out of range"),
        (pa.array([0, None, 1], pa.int64()), "label must be a class from 0 on, is None in row 1 of group 0"),
        (pa.array([0, 1, -1], pa.int8()), "label must be a class from 0 on, is -1 in row 2 of group 0"),
        (pa.array([0.0, 1.0]), "has no column of classes (whole numbers)"),
        (pa.array([[0], [1]]), "label: list<"),
        (pa.array(["cat"]), "label: string"),
    ],
)
def test_labels_that_are_no_classes(
    tmp_path: Path, labels: pa.Array, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, and nothing as large as a number that was found."""
    source = write(tmp_path / "source", {"train.parquet": table(labels), "validation.parquet": table(labels)})
    tracemalloc.start()
    assert prepare(source, tmp_path / "data") == 2
    assert tracemalloc.get_traced_memory()[1] < 5e7
    tracemalloc.stop()
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(("image", "kind"), [([[[0]]], "list<"), ([1, 2], "list<"), ("x", "string"), (None, "null")])
def test_images_that_are_not_encoded_are_told_by_their_type(
    tmp_path: Path, image: object, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Arrays of pixels and texts are no encoded images: the line shows the columns and their types."""
    content = pa.table({"image": [image], "label": [0]})
    source = write(tmp_path / "source", {"train.parquet": content, "validation.parquet": content})
    assert prepare(source, tmp_path / "data") == 2
    assert f"(columns: image: {kind}" in capsys.readouterr().err


def test_a_source_that_is_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file, or nothing: one line."""
    (tmp_path / "file").write_text("")
    for name in ("file", "nothing"):
        assert prepare(tmp_path / name, tmp_path / "data") == 2
        assert f"{name}' is no folder" in capsys.readouterr().err


def test_a_finished_set_of_an_earlier_version_is_recognised(tmp_path: Path) -> None:
    """The digest of a source is the one of the version that knew one layout and one column of images."""
    source = write(tmp_path / "source", {f"data/{split}-0.parquet": table([0, 1]) for split in ("train", "validation")})
    text = repr((["0", "1"], []))
    for split in ("train", "validation"):
        text += f"\n{split}\n"
        name, size = f"{split}-0.parquet", (source / "data" / f"{split}-0.parquet").stat().st_size
        for row in range(2):
            where = (0, row, size, f"{name}: row {row} of group 0")
            text += f"{f'{split}_{row:08d}'!r} {row} {where} None\n"
    assert list_parquet(source).fingerprint() == hashlib.sha256(text.encode()).hexdigest()


def test_validation_rows_are_taken_out_of_the_training_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A set of training files alone is divided, the same part of each class; with validation files it is refused."""
    source = parquet(tmp_path / "source")
    words = [f"source={source}", f"root={tmp_path / 'data'}", "name=divided", "workers=1"]
    assert main(["parquet", *words, "val_fraction=0.1"]) == 2
    next((source / "data").glob("validation-*")).unlink()
    assert main(["parquet", *words]) == 2
    assert "val_fraction=0.1" in capsys.readouterr().err
    assert main(["parquet", *words, "val_fraction=0.1"]) == 0
    splits = {split: split_samples(tmp_path / "data" / "divided", split) for split in ("train", "validation")}
    assert sorted(int(sample["cls"]) for sample in splits["validation"].values()) == [0, 0, 1, 1, 2, 2]
    rows = [(1000 * len("train") + row, row % 30 % 3) for row in range(60)]
    images = [(sample["jpg"], int(sample["cls"])) for found in splits.values() for sample in found.values()]
    assert sorted(images) == sorted((picture(seed), label) for seed, label in rows)


def test_images_without_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where no column holds classes the way out is named, and gives a set without labels, divided if asked for."""
    content = table([0, 1, 0, 1]).drop_columns(["label"])
    source = write(tmp_path / "source", {"data/train-0.parquet": content})
    assert prepare(source, tmp_path / "data", "val_fraction=0.25") == 2
    assert "label_column=none" in capsys.readouterr().err
    assert prepare(source, tmp_path / "data", "val_fraction=0.25", "label_column=none") == 0
    parts = [split_samples(tmp_path / "data" / "pets", split).values() for split in ("train", "validation")]
    assert list(map(len, parts)) == [3, 1]
    assert sorted(sample.pop("jpg") for part in parts for sample in part) == sorted(picture(row) for row in range(4))
    assert not any(sample for part in parts for sample in part)
    assert layout.dataset_info(tmp_path / "data", "pets").num_classes == 0


def write_stream(path: Path, content: pa.Table, rows: int) -> None:
    """A stream of Arrow as ``datasets`` writes it, with so many rows in a batch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, content.schema) as stream:
        stream.write_table(content, max_chunksize=rows)


def test_a_folder_of_save_to_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A DatasetDict has its splits in folders, a Dataset none: both give every row, byte for byte, with its class."""
    notes = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    content = table([row % 2 for row in range(70)]).replace_schema_metadata({"huggingface": json.dumps(notes)})
    both, single = tmp_path / "both", tmp_path / "single"
    for place in (both / "train", both / "validation", both / "test", single):
        write_stream(place / "data-00000-of-00002.arrow", content.slice(0, 40), 33)
        write_stream(place / "data-00001-of-00002.arrow", content.slice(40), 33)
        write_stream(place / "cache-1234.arrow", content.slice(0, 3), 33)
        (place / "state.json").write_text("{}")
    (both / "dataset_dict.json").write_text('{"splits": ["train", "validation", "test"]}')
    expected = sorted((picture(row), b"%d" % (row % 2)) for row in range(70))
    assert prepare(both, tmp_path / "data") == 0
    for split in ("train", "validation"):
        found = split_samples(tmp_path / "data" / "pets", split).values()
        assert sorted((sample["jpg"], sample["cls"]) for sample in found) == expected
    assert layout.dataset_info(tmp_path / "data", "pets").class_names == ("cat", "dog")
    assert prepare(single, tmp_path / "other") == 2
    assert "val_fraction=0.1" in capsys.readouterr().err
    assert prepare(single, tmp_path / "other", "val_fraction=0.1") == 0
    counts = [len(split_samples(tmp_path / "other" / "pets", split)) for split in ("train", "validation")]
    assert counts == [62, 8]
    (both / "train" / "data-00001-of-00002.arrow").write_bytes(b"x" * 40)
    assert prepare(both, tmp_path / "third") == 2
    assert "data-00001-of-00002.arrow' is not a complete stream of Arrow" in capsys.readouterr().err
