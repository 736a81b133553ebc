"""Reads requested metrics of one metrics.jsonl as arrays; other metrics are never turned into Python objects.

pyarrow's JSON reader reads a file twenty times as fast as line by line. A file that it refuses (a line cut by a kill, a
value of another type) is read line by line, and unreadable lines are counted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json as arrow_json
from numpy.typing import NDArray

from analysis.study.files import number

Array = NDArray[np.float64]

STEP, IMAGES = "step", "images_seen"
MAX_STEP = 2**53  # beyond it, steps are no longer exact in float64


@dataclass(frozen=True)
class Line:
    """One metric at the steps [n] that logged it, in order of steps; NaN where the run logged no number."""

    steps: Array
    images: Array
    values: Array


@dataclass(frozen=True)
class _Columns:
    """Values by name [n lines], NaN where missing, and which lines carry the name at all."""

    values: Mapping[str, Array]
    present: Mapping[str, NDArray[np.bool_]]


def read_metrics(path: Path, names: Sequence[str]) -> tuple[dict[str, Line], int]:
    """Read the metrics ``names``; those that no line has are left out, and all of them where there is no file.

    When a resumed run repeats a step, the newest value of each metric counts. The second value is the number of lines
    that are not a logged step.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return {}, 0
    lines_read, _, cut = content.rpartition(b"\n")  # of a run under way, the last line may be half written
    columns, unreadable = _by_arrow(lines_read, names) or _by_line(lines_read, names)
    if cut.strip():
        last, more = _by_line(cut, names)
        columns, unreadable = _joined(columns, last), unreadable + more
    lines = {name: _line(columns, name) for name in names if columns.present[name].any()}
    return lines, unreadable


def averaged(values: Array, most: int) -> Array:
    """Means of neighbouring ``values`` [n], all of the same number of neighbours, so that at most ``most`` remain."""
    if len(values) <= most:
        return values
    starts = np.arange(0, len(values), -(-len(values) // most))
    means: Array = np.add.reduceat(values, starts) / np.diff(np.append(starts, len(values)))
    return means


def _by_arrow(content: bytes, names: Sequence[str]) -> tuple[_Columns, int] | None:
    fields = [(STEP, pa.int64()), *((name, pa.float64()) for name in (IMAGES, *names))]
    try:
        table = arrow_json.read_json(
            pa.BufferReader(content),
            read_options=arrow_json.ReadOptions(use_threads=False, block_size=len(content) + 1),
            parse_options=arrow_json.ParseOptions(
                explicit_schema=pa.schema(fields), unexpected_field_behavior="ignore", newlines_in_values=False
            ),
        )
    except (pa.ArrowException, ValueError, OverflowError):
        return None
    columns = {name: table.column(name) for name, _ in fields}
    present = {name: column.is_valid().to_numpy() for name, column in columns.items()}
    values = {name: column.to_numpy().astype(np.float64) for name, column in columns.items()}
    return _Columns(values, present), int((~present[STEP]).sum())


def _by_line(content: bytes, names: Sequence[str]) -> tuple[_Columns, int]:
    lines = [line for line in content.splitlines() if line.strip()]
    records = [record for line in lines if (record := _parse(line)) is not None]
    every = (STEP, IMAGES, *names)
    values = {name: np.array([_value(record, name) for record in records], dtype=np.float64) for name in every}
    present = {name: np.array([_is_present(record, name) for record in records], dtype=bool) for name in every}
    return _Columns(values, present), len(lines) - len(records)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = record.get(STEP) if isinstance(record, dict) else None
    return record if isinstance(step, int) and not isinstance(step, bool) and abs(step) < MAX_STEP else None


def _is_present(record: Mapping[str, Any], name: str) -> bool:
    value = record.get(name)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _value(record: Mapping[str, Any], name: str) -> float:
    value = number(record.get(name))
    return float("nan") if value is None else float(value)


def _joined(first: _Columns, second: _Columns) -> _Columns:
    values = {name: np.concatenate([first.values[name], second.values[name]]) for name in first.values}
    present = {name: np.concatenate([first.present[name], second.present[name]]) for name in first.present}
    return _Columns(values, present)


def _line(columns: _Columns, name: str) -> Line:
    rows = np.flatnonzero(columns.present[name] & columns.present[STEP])
    _, newest = np.unique(columns.values[STEP][rows][::-1], return_index=True)
    chosen = rows[::-1][newest]
    values = columns.values[name][chosen]
    values = np.where(np.isfinite(values), values, np.nan)
    return Line(columns.values[STEP][chosen], columns.values[IMAGES][chosen], values)
