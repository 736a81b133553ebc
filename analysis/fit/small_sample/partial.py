"""The slope of one quantity at given values of another, with an interval that few points can honestly give."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from analysis.fit.small_sample.answers import Interval, NoFit
from analysis.fit.small_sample.points import t_quantile
from analysis.laws.law import Array

MIN_POINTS = 4  # three coefficients and one degree of freedom for the noise
COLLINEAR = 1e-9
"""Share of the spread of x that must be left once the other quantity is taken out."""


@dataclass(frozen=True)
class Slope:
    """A coefficient of a linear regression with Student's t interval."""

    value: float
    interval: Interval


def slope_given(x: Array, given: Array, y: Array) -> Slope | NoFit:
    """The coefficient of ``x`` [n] in the regression of ``y`` [n] on ``x`` and ``given`` [n].

    What a straight line in ``given`` explains is taken out of both first, which leaves the coefficient as it is
    (Frisch and Waugh 1933). With normal noise the interval covers exactly, for any n >= 4.
    """
    n = len(x)
    if n < MIN_POINTS:
        return NoFit(f"{n} points; a slope at given values needs at least {MIN_POINTS}")
    own, rest = _without(given, x), _without(given, y)
    spread = float(own @ own)
    if spread <= COLLINEAR * float(((x - x.mean()) ** 2).sum()):
        return NoFit("the two quantities move together, so their parts cannot be told apart")
    value = float(own @ rest) / spread
    residuals = rest - value * own
    error = math.sqrt(float(residuals @ residuals) / (n - 3) / spread)
    half = t_quantile(n - 3) * error
    return Slope(value, Interval(value - half, value + half))


def _without(given: Array, values: Array) -> Array:
    """Residuals of ``values`` [n] about their line in ``given`` [n]."""
    design = np.stack([np.ones_like(given), given - given.mean()], axis=1)
    residuals: Array = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return residuals
