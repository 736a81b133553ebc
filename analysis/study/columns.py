"""The columns of a study's table: their types and the range that each value can have. A value outside its range is
taken as missing, with a note."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pandas as pd

from analysis.study.files import number
from nepa_scale.config.registry import SPECS

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
    "source_run",
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
    "source_images",
    "source_tokens",
    "device_count",
    "peak_memory_bytes",
)
HEADLINES = tuple(
    dict.fromkeys(("skill", "linear_last", "linear_mean", *(task.headline.metric for task in SPECS.values())))
)
"""The headline metrics of the tasks, and two more of probes. 1 is perfect, so 1 minus the metric is an error."""
AMOUNTS = (
    "flops_train",
    "pretrain_flops",
    "pretrain_tokens",
    "source_flops",
    "wall_seconds",
    "planned_flops",
    "planned_seconds",
)
INT64 = 2**63
LARGEST = 1e30  # of a measure or an amount; the largest training run so far took less than 1e27 FLOPs
SMALLEST = 1e-30  # of one that is not 0, so that products and powers of a few stay numbers
FRACTIONS = frozenset(metric.key for task in SPECS.values() for metric in task.metrics if metric.unit == "percent")


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """Give every column one type, so that missing is missing (never 0 or 'None') in parquet and CSV alike."""
    columns: dict[str, pd.Series[Any]] = {}
    for name in map(str, table.columns):
        column = table[name].astype("object")
        if name in COUNTS:
            columns[name] = column.map(partial(count, name=name)).astype("Int64")
        elif name in AMOUNTS:
            columns[name] = column.map(amount).astype("float64")
        elif name.startswith("metrics."):
            columns[name] = column.map(partial(metric, name=name.removeprefix("metrics."))).astype("float64")
        elif name.startswith("config.") and all(_is_plain_number(v) for v in column.dropna()):
            columns[name] = pd.to_numeric(column)
        else:
            columns[name] = column.map(str, na_action="ignore").astype("str")
    return pd.DataFrame(columns)


def with_errors(table: pd.DataFrame) -> pd.DataFrame:
    """``table`` with a column ``errors.X`` = 1 - ``metrics.X`` of each headline metric: laws are fitted to errors.

    Also of the top-1 on other test sets, ``top1/imagenet-r``.
    """
    others = [name.removeprefix("metrics.") for name in map(str, table) if name.startswith("metrics.top1/")]
    known = [name for name in (*HEADLINES, *others) if f"metrics.{name}" in table]
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
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < INT64)


def count(value: Any, name: str) -> int | None:
    """``value`` as an integer, of parameters at least 1, else at least 0; None for anything else."""
    known = number(value)
    least = 1 if name.startswith("params_") else 0
    return round(known) if known is not None and least <= known < INT64 else None


def amount(value: Any) -> float | None:
    """``value`` if it is an amount of something, or of nothing."""
    known = number(value)
    return float(known) if known is not None and (known == 0 or SMALLEST <= known <= LARGEST) else None


def metric(value: Any, name: str) -> float | None:
    """``value`` if the metric ``name`` can have it: a score from 0 to 1, anything else a number of sane size."""
    known = number(value)
    if known is None:
        return None
    base = name.removeprefix("ema_").partition("/")[0]
    low, high = (0.0, 1.0) if base in FRACTIONS else (-LARGEST, LARGEST)
    return float(known) if low <= known <= high else None
