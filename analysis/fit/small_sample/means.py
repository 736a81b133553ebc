"""Means of a handful of values, with Student's interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.fit.small_sample.answers import Array, Interval, NoFit
from analysis.fit.small_sample.points import t_quantile

MIN_POINTS_MEAN = 2  # one mean and one degree of freedom
MIN_PAIRS = 3


@dataclass(frozen=True)
class MeanRatio:
    """Geometric mean of paired ratios with Student's t interval."""

    mean: float
    interval: Interval
    n: int


def mean_ratio(first: ArrayLike, second: ArrayLike) -> MeanRatio | NoFit:
    """Geometric mean of ``first / second`` [n] over pairs, with the paired t interval of the log ratio.

    Ratios rather than differences: between two parallel power laws the ratio is the same at every size, so
    what varies is noise.
    """
    numerator, denominator = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    n = len(numerator)
    if n < MIN_PAIRS:
        return NoFit(f"{n} matched {'size' if n == 1 else 'sizes'}; an interval needs at least {MIN_PAIRS}")
    if (numerator <= 0).any() or (denominator <= 0).any():
        return NoFit("an error of zero has no ratio")
    logs = np.log(numerator / denominator)
    around = _t_interval(logs)
    return MeanRatio(math.exp(float(logs.mean())), Interval(math.exp(around.low), math.exp(around.high)), n)


def mean_interval(values: ArrayLike) -> Interval | None:
    """Student's t interval of the mean of ``values`` [n]; None for fewer than two, which show no spread."""
    sample = np.asarray(values, dtype=float)
    return _t_interval(sample) if len(sample) >= MIN_POINTS_MEAN else None


def _t_interval(values: Array) -> Interval:
    """Student's t interval of the mean of ``values`` [n], n >= 2."""
    n, mean = len(values), float(values.mean())
    half = t_quantile(n - 1) * float(values.std(ddof=1)) / math.sqrt(n)
    return Interval(mean - half, mean + half)
