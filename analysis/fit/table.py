"""A table of somebody's own: named columns of a CSV or parquet file, and rows chosen by a condition."""

from __future__ import annotations

import io
import operator
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.laws.law import Array
from nepa_scale.errors import UserError, nearest

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
MISSING = {"", "na", "nan", "null", "none"}


def read_table(path: Path) -> pd.DataFrame:
    """Read a table, cells as text where it is CSV. Raises ``UserError`` naming the file and the fault."""
    if not path.is_file():
        raise UserError(f"{path}: {'a folder, not a table' if path.is_dir() else 'no such file'}")
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        content = path.read_bytes()
        table = pd.read_csv(
            io.BytesIO(content), dtype=str, keep_default_na=False, skipinitialspace=True, on_bad_lines="error"
        )
    except UnicodeDecodeError:
        raise UserError(f"{path}: not text; give a CSV file, or parquet named *.parquet") from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError, OSError, ValueError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None
    _check_whole(path, content, table)
    return table


def _check_whole(path: Path, content: bytes, table: pd.DataFrame) -> None:
    """Raises ``UserError`` for a file cut off in its last line, whose last number would be another."""
    last = content.rstrip(b"\r\n").rpartition(b"\n")[2].decode(errors="replace")
    if len(table) and last.count(",") < len(table.columns) - 1:
        raise UserError(
            f"{path}: line {len(table) + 1} has fewer than {len(table.columns)} cells: was the file cut off?"
        )


def numbers(table: pd.DataFrame, name: str, path: Path) -> Array:
    """The column ``name`` [n] as numbers; empty cells and nan are missing.

    Raises ``UserError`` for a column that is not there (with the nearest) and for a cell that is no number (with
    its line).
    """
    column = table[checked(table, name, path)]
    cells = column.astype(str).str.strip()
    values = pd.to_numeric(cells, errors="coerce")
    wrong = values.isna() & ~cells.str.lower().isin(MISSING | {"<na>"})
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise UserError(f"{path}: line {row + 2}, column '{name}': '{cells.iloc[row]}' is not a number")
    result: Array = values.to_numpy(float)
    return result


def checked(table: pd.DataFrame, name: str, path: Path) -> str:
    """``name``, if the table has such a column. Raises ``UserError`` with the nearest one."""
    if name not in table.columns:
        columns = [str(column) for column in table.columns]
        if len(columns) == 1 and any(mark in columns[0] for mark in ";\t|"):
            raise UserError(f"{path}: no column '{name}': cells must be separated by commas, not as in '{columns[0]}'")
        raise UserError(f"{path}: no column '{name}'{nearest(name, columns)} (there are: {', '.join(columns)})")
    return name


def choose(table: pd.DataFrame, condition: str, path: Path) -> NDArray[np.bool_]:
    """The rows [n] that meet ``COLUMN>VALUE`` (or <, >=, <=). Raises ``UserError``."""
    parts = re.fullmatch(r"(.+?)(>=|<=|>|<)(.+)", condition)
    if parts is None:
        raise UserError(f"--holdout {condition}: give COLUMN>VALUE, for example params>1e9, or each")
    name, sign, text = (part.strip() for part in parts.groups())
    try:
        limit = float(text)
    except ValueError:
        raise UserError(f"--holdout {condition}: '{text}' is not a number") from None
    chosen: NDArray[np.bool_] = np.asarray(COMPARISONS[sign](numbers(table, name, path), limit))
    return chosen
