"""The p value that belongs to a Student interval: how likely chance gives a value as far from ``null``."""

from __future__ import annotations

import math

from scipy import special

from analysis.fit.small_sample.answers import Interval
from analysis.fit.small_sample.points import t_quantile


def p_value(interval: Interval, null: float, degrees: float) -> float:
    """Two-sided, of the middle of a 95 % interval with so many degrees of freedom; below 5 % outside of it."""
    half = (interval.high - interval.low) / 2
    away = abs(interval.low + half - null)
    if half == 0:
        return 1.0 if away == 0 else 0.0
    if not math.isfinite(half):
        return 1.0
    return float(2 * special.stdtr(degrees, -away / half * t_quantile(degrees)))
