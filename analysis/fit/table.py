"""A user's table: named columns of a CSV or parquet file, and rows chosen by a condition."""

from __future__ import annotations

import csv
import io
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from analysis.laws.law import Array
from analysis.study.columns import LARGEST, SMALLEST
from nepa_scale.utils.errors import UserError, nearest, shortened

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    "=": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
MISSING = ("", "na", "nan", "null", "none")
OTHER_SEPARATORS = ";\t|"
_PARQUET = b"PAR1"


@dataclass(frozen=True)
class Table:
    """The rows of a file. ``cells`` are text, empty where a value is missing; the index is the row's position in the
    file."""

    path: Path
    cells: pd.DataFrame

    def __len__(self) -> int:
        return len(self.cells)

    def numbers(self, name: str) -> Array:
        """The column ``name`` [n] as numbers, NaN where a cell is empty or nan.

        Raises ``UserError`` for a column that is not there (with the nearest), and for a cell that is no number of a
        sane size (with its line).
        """
        cells = self._column(name).str.strip()
        values = pd.to_numeric(cells, errors="coerce").astype("float64")
        size = values.abs()
        sane = size.between(SMALLEST, LARGEST) | (size == 0)
        wrong = np.flatnonzero(~sane & ~cells.str.lower().isin(MISSING))
        if len(wrong):
            cell, fault = cells.iloc[wrong[0]], _fault(cells.iloc[wrong[0]], values.iloc[wrong[0]])
            raise UserError(f"{self.path}: {cells.index[wrong[0]]}, column '{name}': '{cell}' {fault}")
        result: Array = np.asarray(values, dtype=float)
        return result

    def positive(self, name: str) -> Array:
        """The column ``name`` [n] as numbers above 0. Raises ``UserError`` as ``numbers`` does, and for others."""
        values = self.numbers(name)
        wrong = np.flatnonzero(values <= 0)
        if len(wrong):
            place = f"{self.path}: {self.cells.index[wrong[0]]}, column '{name}'"
            raise UserError(f"{place}: {values[wrong[0]]:g} is not a number above 0")
        return values

    def texts(self, name: str) -> NDArray[np.object_]:
        """The column ``name`` [n] as text. Raises ``UserError`` for a column that is not there (with the nearest)."""
        return self._column(name).to_numpy(object)

    def without(self, rows: NDArray[np.bool_]) -> Table:
        """All but these ``rows`` [n]."""
        return Table(self.path, self.cells[~rows])

    def where(self, conditions: Sequence[str], flag: str = "where") -> Table:
        """The rows that meet every one of ``conditions``. Raises ``UserError`` where there is none."""
        table = self
        for condition in conditions:
            chosen = table.meeting(condition, flag)
            if not chosen.any():
                raise UserError(f"{self.path}: {flag}={condition}: no row meets it{table._met(condition)}")
            table = Table(self.path, table.cells[chosen])
        return table

    def by(self, name: str | None) -> dict[str, Table]:
        """One table for each value of the column ``name``, in the order of the rows; all rows as "" without a name.

        Rows without a value belong to none. Raises ``UserError``.
        """
        if name is None:
            return {"": self}
        cells = self._column(name).str.strip()
        return {value: Table(self.path, self.cells[cells == value]) for value in dict.fromkeys(filter(None, cells))}

    def meeting(self, condition: str, flag: str) -> NDArray[np.bool_]:
        """Which rows [n] meet ``COLUMN=VALUE`` (or !=, >, >=, <, <=), given by ``flag``.

        Equality of two numbers is that of their values. A missing cell meets no condition. Raises ``UserError``.
        """
        name, sign, value = _parts(condition, flag)
        limit = pd.to_numeric(pd.Series([value]), errors="coerce").astype("float64").iloc[0]
        if sign not in ("=", "!="):
            if np.isnan(limit):
                raise UserError(f"{flag}={condition}: '{value}' is not a number")
            chosen: NDArray[np.bool_] = np.asarray(COMPARISONS[sign](self.numbers(name), limit))
            return chosen
        cells = self._column(name).str.strip()
        equal = (cells == value) | (pd.to_numeric(cells, errors="coerce").astype("float64") == limit)
        return (equal if sign == "=" else ~equal & (cells != "")).to_numpy(bool)

    def _met(self, condition: str) -> str:
        """The values of the column of ``condition``, if that is what it could have named."""
        name, sign, _ = _parts(condition, "where")
        return f" (there are: {shortened(dict.fromkeys(filter(None, self.texts(name))))})" if sign == "=" else ""

    def _column(self, name: str) -> pd.Series[str]:
        if name not in self.cells:
            columns = list(map(str, self.cells))
            raise UserError(
                f"{self.path}: no column '{name}'{nearest(name, columns)} (there are: {', '.join(columns)})"
            )
        return self.cells[name]


def table_of(frame: pd.DataFrame) -> Table:
    """``frame`` as a table whose rows are named by their index. Raises ``UserError``."""
    try:
        return Table(Path("data"), _named(_text(frame)).set_axis([f"row {name}" for name in frame.index]))
    except _Fault as fault:
        raise UserError(f"data: {fault}") from None


def read_table(path: Path) -> Table:
    """Read the CSV or parquet file ``path``. Raises ``UserError`` naming the file, the line and the fault."""
    if not path.is_file():
        raise UserError(f"{path}: {'a folder, not a table' if path.is_dir() else 'no such file'}")
    try:
        content = path.read_bytes()
        table = Table(path, _parquet(content) if content.startswith(_PARQUET) else _csv(content))
    except _Fault as fault:
        raise UserError(f"{path}: {fault}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or ' '.join(str(error).split())}") from None
    if not len(table):
        raise UserError(f"{path}: it names columns and has no rows")
    return table


class _Fault(Exception):
    """What is wrong with the content of a file."""


def _csv(content: bytes) -> pd.DataFrame:
    """Every row as wide as the header: a row of another width would put numbers under names that are not theirs."""
    rows = _rows(content)
    line, header = next(rows, (1, []))
    if not header:
        raise _Fault("it is empty; its first line must name the columns")
    if len(header) == 1 and any(mark in header[0] for mark in OTHER_SEPARATORS):
        raise _Fault(f"line {line}: cells must be separated by commas, not as in '{header[0]}'")
    places, cells = [], []
    for at, row in rows:
        if len(row) != len(header):
            raise _Fault(
                f"line {at} has {_cells(row)} and the header, line {line}, has {_cells(header)}{_hint(row, header)}"
            )
        if row == header:
            raise _Fault(f"line {at} repeats the header of line {line}; give one table")
        places.append(f"line {at}")
        cells.append(row)
    return _named(pd.DataFrame(cells, index=places, columns=header, dtype="str"))


def _rows(content: bytes) -> Iterator[tuple[int, list[str]]]:
    """(line where it begins, cells without the space around them) of every row; empty lines are passed over."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _Fault("not UTF-8 text; give a CSV file in UTF-8, or a parquet file") from None
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    line = 1
    try:
        for row in reader:
            if any(cell.strip() for cell in row) or len(row) > 1:
                yield line, [cell.strip() for cell in row]
            line = reader.line_num + 1
    except csv.Error as error:
        raise _Fault(f"line {line}: {error}") from None


def _parquet(content: bytes) -> pd.DataFrame:
    try:
        table = pq.read_table(io.BytesIO(content)).to_pandas(ignore_metadata=True)
    except (ValueError, OSError) as error:
        raise _Fault(f"not a whole parquet file ({' '.join(str(error).split())})") from None
    return _named(_text(table).set_axis([f"row {i + 1}" for i in range(len(table))]))


def _text(table: pd.DataFrame) -> pd.DataFrame:
    """All cells as text, empty where a value is missing."""
    names = list(map(str, table))
    table = table.set_axis(pd.RangeIndex(len(names)), axis="columns")  # names may be there twice
    texts = table.apply(lambda column: column.astype("object").where(column.notna(), "").map(str)).astype("str")
    return texts.set_axis(names, axis="columns")


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """``table`` without the columns that have no name, as the numbers of rows that some programs write have none."""
    named = table.loc[:, [name != "" for name in table]]
    twice = named.columns[named.columns.duplicated()]
    if len(twice):
        raise _Fault(f"two columns are named '{twice[0]}'; give each its own name")
    return named


def _parts(condition: str, flag: str) -> tuple[str, str, str]:
    """Column, comparison and value of a condition; ``==`` is ``=``, and ``!==`` is ``!=``."""
    parts = re.fullmatch(r"(.+?)(>=|<=|!==?|==?|>|<)(.+)", condition, re.DOTALL)
    if parts is None:
        raise UserError(f"{flag}={condition}: give COLUMN>VALUE or COLUMN=VALUE, for example params>1e9")
    name, sign, value = (part.strip() for part in parts.groups())
    return name, {"==": "=", "!==": "!="}.get(sign, sign), value


def _fault(cell: str, value: float) -> str:
    if np.isnan(value):
        return f"is not a number{'; write decimals with a point, and thousands without commas' if ',' in cell else ''}"
    return f"is out of range: but for 0 and the sign, a number is from {SMALLEST:g} to {LARGEST:g}"


def _cells(row: Sequence[str]) -> str:
    return "1 cell" if len(row) == 1 else f"{len(row)} cells"


def _hint(*rows: Sequence[str]) -> str:
    return "; comments are not read" if any(row[0].startswith("#") for row in rows) else ""
