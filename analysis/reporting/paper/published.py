"""The published results of NEPA: ``published.csv``, the tables and Figure 4 of arXiv 2512.16922, version 2.

Each row is one printed number: ``percent`` as it stands in ``source`` and ``table``, or ``failed`` where the paper
prints none. ``grid`` and ``label`` name the point of the shipped grid that repeats the row, ``reference`` the label
whose difference to it is the effect. ``attention`` is that of fine-tuning, ``params`` the backbone parameters N of the
paper's models (derived, with a GELU MLP; without patch embedding, class token and head), ``uncertainty`` that of a
number read off a figure, in percentage points. An empty field is not stated.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from nepa_scale.utils.errors import UserError

FILE = Path(__file__).with_name("published.csv")
WORDS = ("source", "table", "grid", "label", "reference", "method", "size", "attention", "metric", "note")
COUNTS = ("epochs", "steps", "params")
METRICS = ("top1", "miou", "linear_last", "linear_mean")
FIGURE_4, LINEAR_PROBE = "Figure 4", "Table 6"


@functools.cache
def read_published(path: Path = FILE) -> pd.DataFrame:
    """Read the file into one typed table: words are never missing but may be empty, ``score`` is a fraction or NaN.

    Raises ``UserError`` when a row breaks the form told above.
    """
    types = {**dict.fromkeys(WORDS, "str"), **dict.fromkeys(COUNTS, "Int64"), "failed": "bool"}
    types |= {"percent": "float64", "uncertainty": "float64"}
    try:
        table = pd.read_csv(path, dtype=types, encoding="utf-8")
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is no table of published results: {error}") from error
    missing = [name for name in types if name not in table]
    if missing:
        raise UserError(f"{path}: column {missing[0]} is missing")
    table = table.fillna(dict.fromkeys(WORDS, ""))
    _check(path, table)
    return table.assign(score=table["percent"] / 100)


def of_grid(grid: str | None) -> pd.DataFrame:
    """The published rows of ``grid``, in the paper's order; none for a grid that the paper does not have."""
    table = read_published()
    return table[(table["grid"] == grid) & (table["grid"] != "")]


def headline(metric: str) -> pd.DataFrame:
    """The published comparison of methods in ``metric``: Table 2 (top1) or Table 3 (miou)."""
    table = read_published()
    return table[table["table"].isin(["Table 2", "Table 3"]) & (table["metric"] == metric)]


def _check(path: Path, table: pd.DataFrame) -> None:
    places = set(zip(table["grid"], table["label"], strict=True))
    problems: dict[str, Iterable[Any]] = {
        f"metric is none of {', '.join(METRICS)}": ~table["metric"].isin(METRICS),
        "percent is outside 0 to 100": table["percent"].notna() & ~table["percent"].between(0, 100),
        "a failed row has no percent, every other row has one": table["failed"] == table["percent"].notna(),
        "source, table or method is empty": (table[["source", "table", "method"]] == "").any(axis=1),
        "label and grid go together": (table["grid"] == "") != (table["label"] == ""),
        "reference is no label of the grid": [
            row.reference != "" and (row.grid, row.reference) not in places for row in table.itertuples()
        ],
        "the row is there twice": table.duplicated(),
    }
    for problem, wrong in problems.items():
        if any(wrong):
            line = 2 + list(wrong).index(True)  # the first line of the file is its head
            raise UserError(f"{path}, line {line}: {problem}")
