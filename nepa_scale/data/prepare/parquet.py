"""Hugging Face's parquet files as a source: columns ``image`` (a struct with ``bytes``) and ``label``."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from nepa_scale.data.info import SPLITS
from nepa_scale.data.prepare.mixing import mixed
from nepa_scale.data.prepare.references import Listing, ParquetRow, Reference, numbered
from nepa_scale.errors import DataError, shortened

_NAME = re.compile(r"(train|validation|val)(?:-.*)?\.parquet")
_PART = re.compile(r".*-of-0*(\d+)\.parquet")

RowGroup = list[tuple[Reference, int]]


def list_parquet(source: Path) -> Listing:
    """List ``source/data/{train,validation}-*.parquet``, or those in ``source`` itself.

    The row groups of the training split are mixed, the rows inside stay in order, so that each row group is read once
    and in pieces. Raises ``DataError`` with every problem, one per line.
    """
    folder = source / "data" if (source / "data").is_dir() else source
    files = _files_by_split(folder)
    problems = [f"'{folder}' has no {split}-*.parquet" for split in SPLITS if not files[split]]
    problems += [problem for paths in files.values() for problem in _missing_parts(folder, paths)]
    groups: dict[str, list[RowGroup]] = {split: [] for split in SPLITS}
    names: set[tuple[str, ...]] = set()
    for split, paths in files.items():
        for path in paths:
            try:
                names.add(_open(path, groups[split]))
            except DataError as error:
                problems += str(error).splitlines()
    classes = max(names, default=(), key=len)
    labels = [label for found in groups.values() for group in found for _, label in group]
    if len(names) > 1:
        problems.append(f"'{folder}': the files do not name the same classes")
    if names and classes and max(labels, default=0) >= len(classes):
        problems.append(f"'{folder}': label {max(labels)} is out of range: {len(classes)} classes are named")
    if problems:
        raise DataError("\n".join(problems))
    groups["train"] = mixed(groups["train"])
    splits = {split: numbered(split, [row for group in found for row in group]) for split, found in groups.items()}
    return Listing(splits, class_names=classes or [str(number) for number in range(max(labels) + 1)])


def _files_by_split(folder: Path) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for path in sorted(folder.glob("*.parquet")):
        if match := _NAME.fullmatch(path.name):
            files["train" if match[1] == "train" else "validation"].append(path)
    return files


def _missing_parts(folder: Path, paths: list[Path]) -> list[str]:
    """Compare names such as train-00000-of-00294.parquet with the number of parts that they state."""
    totals = {int(match[1]) for path in paths if (match := _PART.fullmatch(path.name))}
    stated = max(totals, default=len(paths))
    if stated == len(paths):
        return []
    split = paths[0].name.partition("-")[0]
    return [f"'{folder}' has {len(paths)} of {stated} {split} files: {shortened(path.name for path in paths)}"]


def _open(path: Path, groups: list[RowGroup]) -> tuple[str, ...]:
    """Add the row groups of a file; return the class names it states, none if it states none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = path.stat().st_size
    try:
        with pq.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow)
            for group in range(file.num_row_groups):
                labels = file.read_row_group(group, columns=["label"], use_threads=False).column("label").to_pylist()
                rows = enumerate(_label(path, label) for label in labels)
                groups.append([(_row(path, group, row, size), label) for row, label in rows])
            return _class_names(file.schema_arrow)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"'{path}' is not a whole parquet file: {str(error).splitlines()[0]}") from None


def _row(path: Path, group: int, row: int, size: int) -> ParquetRow:
    return ParquetRow(str(path), group, row, size, f"{path.name}: row {row} of group {group}")


def _label(path: Path, label: int | None) -> int:
    if label is None or label < 0:
        raise DataError(f"'{path}': label must be a class from 0 on, is {label}")
    return label


def _check_columns(path: Path, schema: Any) -> None:
    import pyarrow as pa

    images = schema.field("image").type if "image" in schema.names else None
    labels = schema.field("label").type if "label" in schema.names else None
    problems = []
    if not (images and pa.types.is_struct(images) and images.get_field_index("bytes") >= 0):
        problems.append(f"'{path}' has no column 'image' with a field 'bytes' (columns: {shortened(schema.names)})")
    if not (labels and pa.types.is_integer(labels)):
        problems.append(f"'{path}' has no column 'label' of whole numbers (columns: {shortened(schema.names)})")
    if problems:
        raise DataError("\n".join(problems))


def _class_names(schema: Any) -> tuple[str, ...]:
    """Read ``info.features.label.names`` of the notes that the ``datasets`` library leaves in the schema."""
    with suppress(KeyError, TypeError, ValueError):
        names = json.loads(schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return tuple(names)
    return ()
