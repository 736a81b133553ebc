"""Hugging Face's data sets as a source: which columns of their files hold images and classes, and where each row lies.

The files are parquet, as the Hub has them, or the streams of Arrow in a folder of ``datasets``' ``save_to_disk``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from nepa_scale.data.file_io import gaps, part_problems, split_words, splits_of, states_part
from nepa_scale.data.info import MAX_CLASSES, SPLITS
from nepa_scale.data.prepare.listing import Listing, held_out, mixed, numbered
from nepa_scale.data.prepare.references import (
    ARROW,
    LeftOut,
    ParquetColumn,
    ParquetRow,
    Reference,
    RowGroups,
    row_groups,
)
from nepa_scale.utils.errors import DataError, first_line, shortened


class Columns(NamedTuple):
    """The names of the two columns; None where a name is not known yet, ``label`` empty for images without classes."""

    image: str | None
    label: str | None

    def image_path(self, schema: Any, path: Path) -> str:
        """What a file calls the column to read: in parquet the bytes within a struct are one."""
        plain = path.suffix == ARROW or str(schema.field(self.image).type) in _BYTES
        return str(self.image) if plain else f"{self.image}.bytes"


RowGroup = list[tuple[Reference, int]]
Choose = Callable[[Path, Any], Columns]
_BYTES = ("binary", "large_binary", "binary_view")
_SHOWN = 40  # characters of a type
NO_LABELS = "none"  # in place of a label_column


def list_parquet(
    source: Path,
    image_column: str | None = None,
    label_column: str | None = None,
    val_fraction: float | None = None,
) -> Listing:
    """List the files of the splits in ``source``: ``data/train-*.parquet``, ``train/*.parquet`` or the like, or those
    that ``save_to_disk`` left.

    With a ``label_column`` of ``none`` images have no labels. With ``val_fraction`` there must be no validation files,
    and that part of the training rows becomes the split.

    The row groups of the training split are mixed, the rows inside stay in order, so that each row group is read once
    and in pieces. Raises ``DataError`` with every problem, one per line.
    """
    left_out = LeftOut()
    files, problems = _files_by_split(source, val_fraction, left_out)
    if problems:
        raise DataError("\n".join(problems))
    chosen: list[Columns] = []

    def choose(path: Path, schema: Any) -> Columns:
        """The columns of the first file, which all others must have."""
        asked = chosen[0] if chosen else Columns(image_column, "" if label_column == NO_LABELS else label_column)
        chosen.append(choose_columns(path, schema, asked))
        return chosen[-1]

    groups: dict[str, list[RowGroup]] = {split: [] for split in SPLITS}
    names: set[tuple[str, ...]] = set()
    for split, paths in files.items():
        for path in paths:
            try:
                names.add(_open(path, source, groups[split], choose))
            except DataError as error:
                problems += str(error).splitlines()
    remarks = [] if val_fraction is None or problems else [_divide(groups, val_fraction)]
    if not problems:
        problems = _row_problems(source, groups, names)
    if problems:
        raise DataError("\n".join(problems))
    largest = max(label for found in groups.values() for group in found for _, label in group)
    groups["train"] = mixed(groups["train"])
    splits = {split: numbered(split, [row for group in found for row in group]) for split, found in groups.items()}
    if not chosen[0].label:
        splits = {split: [item._replace(label=None) for item in items] for split, items in splits.items()}
        return Listing(splits, left_out=left_out, remarks=remarks)
    class_names = names.pop() or [str(number) for number in range(largest + 1)]
    return Listing(splits, class_names=class_names, left_out=left_out, remarks=remarks)


def _divide(groups: dict[str, list[RowGroup]], fraction: float) -> str:
    """Move rows of the training split to the validation split, group by group; return the line that says so."""
    chosen = held_out([label for group in groups["train"] for _, label in group], fraction)
    numbers = count()
    divided = [[(next(numbers) in chosen, row) for row in group] for group in groups["train"]]
    groups["train"] = [[row for held, row in group if not held] for group in divided]
    groups["validation"] = [[row for held, row in group if held] for group in divided]
    total = sum(map(len, divided))
    return f"validation: {len(chosen):,} of {total:,} images, val_fraction={fraction:g} of each class"


def _files_by_split(
    source: Path, val_fraction: float | None, left_out: LeftOut
) -> tuple[dict[str, list[Path]], list[str]]:
    """The files of each split, by their names or else by their folders', and what keeps them from being read."""
    if not source.is_dir():
        return {}, [f"'{source}' is no folder"]
    pattern = "*.parquet" if next(source.rglob("*.parquet"), None) else f"data-*{ARROW}"
    base = source / "data" if next((source / "data").glob(pattern), None) else source
    files: dict[str, list[Path]] = {split: [] for split in SPLITS}
    others = []
    for path in sorted(base.rglob(pattern)):
        names = path.relative_to(base).parts
        if any(name.startswith(".") for name in names):
            continue
        found: set[str] = next(filter(None, map(splits_of, reversed(names))), set())
        if len(found) == 1:
            files[found.pop()].append(path)
        else:
            others.append(path.relative_to(source))
    if others and (source / "state.json").is_file():  # a Dataset, not a DatasetDict, was saved: it has no splits
        files["train"], others = [source / name for name in others], []
    seen = f"; there are: {shortened(map(str, others))}" if others else ""
    needed = SPLITS if val_fraction is None else ("train",)
    remedy = {"validation": "; val_fraction=0.1 takes them out of the training images"}
    problems = [
        f"'{source}' has no {split} files, by their names{seen}{remedy.get(split, '')}"
        for split in needed
        if not files[split]
    ]
    if val_fraction is not None and files["validation"]:
        problems.append(
            f"val_fraction={val_fraction:g} takes validation images out of the training images, but there are "
            f"validation files: leave val_fraction out to use {shortened(path.name for path in files['validation'])}"
        )
    for split, paths in files.items():
        problems += _split_problems(source, split, paths)
    left_out.add_unread(map(str, others), ())
    return files, problems


def _split_problems(source: Path, split: str, paths: Sequence[Path]) -> list[str]:
    """Signs in the names that the files are not those of one complete split."""
    folders = sorted({str(path.parent.relative_to(source)) for path in paths})
    if len(folders) > 1:
        return [f"'{source}' has {split} files in several folders: {shortened(folders)}: let source= name one"]
    names = [path.name for path in paths]
    where = f"'{source / folders[0]}'" if folders else ""
    problems = part_problems(names, where)
    if partial := [name for name in (*names, *folders) if "partial" in name]:
        problems.append(f"{where}: the {split} files are a part of the split, by their name: {shortened(partial)}")
    stating = [name for name in names if states_part(name)]
    if 0 < len(stating) < len(names):
        problems.append(f"{where}: {split} files with and without '-of-' in their names: {shortened(names)}")
    if len(spellings := {frozenset(split_words(name)) for name in names if splits_of(name)}) > 1:
        both = " and ".join(sorted({word for words in spellings for word in words}))
        problems.append(f"{where}: {both} could both be the {split} files: {shortened(names)}: move all but one away")
    if missing := gaps(names, from_start=all(path.stem.isdecimal() for path in paths)):
        problems.append(f"{where}: by their numbers there are files between: {shortened(missing)}")
    return problems


def _open(path: Path, source: Path, groups: list[RowGroup], choose: Choose) -> tuple[str, ...]:
    """Add the row groups of a file; return the class names it states, none if it states none."""
    import pyarrow as pa

    size = path.stat().st_size
    try:
        with row_groups(path) as file:
            columns = choose(path, file.schema)
            column = ParquetColumn(str(path), columns.image_path(file.schema, path))
            where = path.name if columns.image == "image" else f"{path.name}, column {columns.image}"
            for group, length in enumerate(file.lengths):
                rows = enumerate(_labels(file, path, group, columns.label) if columns.label else [0] * length)
                named = ((row, label, f"{where}: row {row} of group {group}") for row, label in rows)
                groups.append([(ParquetRow(column, group, row, size, name), label) for row, label, name in named])
            return class_names(file.schema, str(columns.label))
    except (pa.ArrowException, OSError) as error:
        kind = "stream of Arrow" if path.suffix == ARROW else "parquet file"
        raise DataError(f"'{path}' is not a complete {kind}: {first_line(error)}") from None


def _labels(file: RowGroups, path: Path, group: int, column: str) -> list[int]:
    """The classes of a row group. Raises ``DataError`` with the first row whose class is null or negative."""
    import numpy as np

    labels = file.column(group, column)
    bad = np.flatnonzero(labels.is_null().to_numpy(zero_copy_only=False))
    if not bad.size:
        bad = np.flatnonzero(labels.to_numpy() < 0)
    if bad.size:
        value = labels[int(bad[0])].as_py()
        raise DataError(
            f"'{path}': {column} must be a class from 0 on, is {value} in row {bad[0]} of group {group} "
            f"({bad.size} such rows in the group)"
        )
    return list(labels.to_pylist())


def _row_problems(source: Path, groups: dict[str, list[RowGroup]], names: set[tuple[str, ...]]) -> list[str]:
    """What is wrong with the rows of all files together."""
    problems = [f"'{source}': the {split} files have no rows" for split, found in groups.items() if not any(found)]
    if len(names) > 1:
        problems.append(f"'{source}': the files do not name the same classes")
    if problems:
        return problems
    classes = len(next(iter(names)))
    limit, how = (classes, "named") if classes else (MAX_CLASSES, "allowed")
    row, label = max((row for found in groups.values() for group in found for row in group), key=lambda row: row[1])
    if label < limit:
        return []
    return [f"'{source}': label {label} is out of range: {limit} classes are {how} ({row.name})"]


def choose_columns(path: Any, schema: Any, asked: Columns) -> Columns:
    """The columns that are asked for, or ``image`` and ``label``, or the only ones possible.

    Raises ``DataError`` where there is none, or where several are possible; ``path`` is for the message.
    """
    import pyarrow as pa

    images = [field.name for field in schema if _holds_bytes(field.type)]
    numbers = [field.name for field in schema if pa.types.is_integer(field.type)]
    classes = [name for name in numbers if class_names(schema, name)]
    problems: list[str] = []
    image = _chosen("image", asked.image, images, "encoded images (bytes, or a struct with bytes)", problems)
    label = asked.label
    if label != "":
        label = _chosen("label", label, numbers, "classes (whole numbers)", problems, preferred=classes)
    if problems:
        shown = ", ".join(f"{field.name}: {field.type!s:.{_SHOWN}}" for field in schema)
        raise DataError("\n".join(f"'{path}' has {problem} (columns: {shown})" for problem in problems))
    return Columns(image, label)


def _chosen(
    usual: str,
    asked: str | None,
    possible: Sequence[str],
    what: str,
    problems: list[str],
    preferred: Sequence[str] = (),
) -> str | None:
    """The column to take of the ``possible`` ones, or a note of what is wrong."""
    wanted = asked or usual
    if wanted in possible:
        return wanted
    if asked is not None:
        problems.append(f"no column '{asked}' of {what}")
        return None
    candidates = preferred or possible
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        problems.append(f"several columns of {what}: say {usual}_column={' or '.join(candidates)}")
    else:
        remedy = f"; label_column={NO_LABELS} is for images without classes" if usual == "label" else ""
        problems.append(f"no column of {what}{remedy}")
    return None


def class_names(schema: Any, column: str) -> tuple[str, ...]:
    """The names of a column's classes, by the notes that the ``datasets`` library leaves in the schema; or none."""
    with suppress(KeyError, TypeError, ValueError):
        names = json.loads(schema.metadata[b"huggingface"])["info"]["features"][column]["names"]
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return tuple(names)
    return ()


def _holds_bytes(kind: Any) -> bool:
    """Whether values of an Arrow type are bytes, or structs with a field of them."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and str(kind.field(index).type) in _BYTES
    return str(kind) in _BYTES
