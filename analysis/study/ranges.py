"""What a recorded number can be at all: one outside is missing, so that no damaged file bends a law or an axis."""

from __future__ import annotations

from typing import Any

from analysis.study.files import number

INT64 = 2**63
LARGEST = 1e30  # of a measure or an amount; the largest training run so far took less than 1e27 FLOPs
SMALLEST = 1e-30  # of one that is not 0, so that products and powers of a few stay numbers
FRACTIONS = frozenset(
    (
        *("top1", "top5", "top1_majority", "miou", "miou_multi_scale", "miou_majority", "mean_accuracy"),
        *("tuning_top1", "tuning_miou"),
        *("pixel_accuracy", "linear_last", "linear_mean", "attentive", "knn_last", "knn_mean"),
    )
)


def count(value: Any, name: str) -> int | None:
    """``value`` as a whole number, of parameters at least 1, else at least 0; None for anything else."""
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
