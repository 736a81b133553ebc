"""Hugging Face's parquet files."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archives import parquet, picture, split_samples

from nepa_scale.data import layout
from nepa_scale.data.prepare.__main__ import main
from nepa_scale.data.prepare.parquet import list_parquet
from nepa_scale.data.prepare.reading import Reader


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
        ("no image", "has no column 'image' with a field 'bytes' (columns: picture, label)"),
        ("image is text", "has no column 'image' with a field 'bytes'"),
        ("label is text", "has no column 'label' of whole numbers"),
        ("no label", "label must be a class from 0 on, is -1"),
        ("text", "is not a whole parquet file"),
        ("part missing", "has 1 of 2 train files"),
        ("validation missing", "has no validation-*.parquet"),
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
