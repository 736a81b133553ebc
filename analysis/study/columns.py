"""The columns of a study's table and their types: what cannot be what it should is missing, and said."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pandas as pd

from analysis.study import ranges

MAX_SHOWN = 40  # characters of a value in a note

TEXT = (
    "run_id",
    "label",
    "size",
    "init",
    "task",
    "state",
    "error",
    "updated_at",
    "device_kind",
    "commit",
    "finished_at",
    "pretrained_by",
)
COUNTS = (
    "step",
    "steps_total",
    "attempt",
    "seed",
    "params_total",
    "params_backbone",
    "images_seen",
    "unique_images",
    "validation_images",
    "tokens_seen",
    "device_count",
    "peak_memory_bytes",
)
HEADLINES = ("skill", "linear_last", "linear_mean", "attentive", "top1", "miou")
"""The metrics of each task that say how good a run is: 1 is perfect, so what is missing is an error."""
AMOUNTS = ("flops_train", "pretrain_flops", "pretrain_tokens", "wall_seconds", "planned_flops", "planned_seconds")


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """Give every column one type, so that missing is missing (never 0 or 'None') in parquet and CSV alike."""
    columns: dict[str, pd.Series[Any]] = {}
    for name in map(str, table.columns):
        column = table[name].astype("object")
        if name in COUNTS:
            columns[name] = column.map(partial(ranges.count, name=name)).astype("Int64")
        elif name in AMOUNTS:
            columns[name] = column.map(ranges.amount).astype("float64")
        elif name.startswith("metrics."):
            columns[name] = column.map(partial(ranges.metric, name=name.removeprefix("metrics."))).astype("float64")
        elif name.startswith("config.") and all(_is_plain_number(v) for v in column.dropna()):
            columns[name] = pd.to_numeric(column)
        else:
            columns[name] = column.map(str, na_action="ignore").astype("str")
    return pd.DataFrame(columns)


def with_errors(table: pd.DataFrame) -> pd.DataFrame:
    """``table`` with a column ``errors.X`` = 1 - ``metrics.X`` of each headline metric: laws are fitted to errors."""
    known = [name for name in HEADLINES if f"metrics.{name}" in table]
    return table.assign(**{f"errors.{name}": 1 - table[f"metrics.{name}"] for name in known})


def left_out(raw: pd.DataFrame, kept: pd.DataFrame) -> Iterator[str]:
    """Say which recorded values of ``raw`` cannot be what they should, and are missing in ``kept``."""
    numbers = [name for name in map(str, raw) if name in COUNTS or name in AMOUNTS or name.startswith("metrics.")]
    for name in numbers:
        for i in raw.index[raw[name].notna() & kept[name].isna()]:
            run_id, task, value = (str(raw.at[i, "run_id"]), str(raw.at[i, "task"]), raw.at[i, name])
            what = name.removeprefix("metrics.")
            yield f"{run_id}/{task}: {what} cannot be {ascii(value)[:MAX_SHOWN]}; it is taken as missing."


def _is_plain_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < ranges.INT64)
