"""Estimates from a handful of points with Student's exact intervals: means, ratios and slopes. Where the points do
not allow one, the reason."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from analysis.laws.law import Array

CONFIDENCE = 0.95
LARGEST_LOG = math.log(sys.float_info.max)
TOO_STEEP = "it is so steep that its value at x = 1 leaves the range of numbers"
MIN_POINTS_MEAN = 2  # one mean and one degree of freedom
MIN_PAIRS = 3
MIN_POINTS = 4  # three coefficients and one degree of freedom for the noise
COLLINEAR = 1e-9
"""Share of the spread of x that must be left once the other quantity is taken out."""


@dataclass(frozen=True)
class NoFit:
    """A law that was not fitted, and why."""

    reason: str

    def __str__(self) -> str:
        return f"no fit: {self.reason}"

    if not TYPE_CHECKING:  # to a type checker a NoFit has a reason, and nothing else

        def __getattr__(self, name: str) -> NoReturn:
            """Raises ``AttributeError`` with the reason why there is no fit."""
            if name.startswith("_"):
                raise AttributeError(name)
            raise AttributeError(f"there is no '{name}', as the law was not fitted: {self.reason}")


@dataclass(frozen=True)
class Interval:
    """A 95 % interval ``low .. high``."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def finite(value: float) -> float | None:
    """``value``, or None for what JSON cannot hold."""
    return float(value) if math.isfinite(value) else None


def bounds(interval: Interval | None) -> list[float | None] | None:
    """Both ends of ``interval``, an infinite one as None."""
    return None if interval is None else [finite(interval.low), finite(interval.high)]


def positive_bounds(interval: Interval | None) -> list[float | None] | None:
    """Both ends of an ``interval`` of values above 0, an open one (0 or infinite) as None."""
    return None if interval is None else [interval.low or None, finite(interval.high)]


def exponential(logs: Interval) -> Interval:
    """The interval of values of one of their logs: an infinite end becomes 0 or infinite."""
    with np.errstate(over="ignore"):
        low, high = np.exp([logs.low, logs.high])
    return Interval(float(low), float(high))


@dataclass(frozen=True)
class Prediction:
    """The law at some x [...]: its value and the 95 % prediction interval of one further point there."""

    y: Array
    low: Array
    high: Array


def checked(x: ArrayLike, y: ArrayLike, min_points: int) -> tuple[Array, Array] | NoFit:
    """Sorted distinct log x [m] with the mean log y [m] at each, or the reason why no law can be fitted."""
    x_all, y_all = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    present = np.isfinite(x_all) & np.isfinite(y_all)
    x_all, y_all = x_all[present], y_all[present]
    bad = int(((x_all <= 0) | (y_all <= 0)).sum())
    if bad:
        verb = "is" if bad == 1 else "are"
        return NoFit(f"{bad} of {len(x_all)} points {verb} zero or negative, which no power law reaches")
    distinct, group = np.unique(x_all, return_inverse=True)
    if len(distinct) < min_points:
        noun = "point" if len(distinct) == 1 else "points"
        return NoFit(f"{len(distinct)} distinct {noun}; this law needs at least {min_points}")
    log_y = np.bincount(group, weights=np.log(y_all)) / np.bincount(group)
    if np.ptp(log_y) == 0:
        return NoFit("all values are equal, so there is neither a trend nor a noise level to judge one by")
    return np.log(distinct), log_y


def t_quantile(degrees_of_freedom: float, confidence: float = CONFIDENCE) -> float:
    """How many standard errors a two-sided interval reaches from its middle."""
    return float(special.stdtrit(degrees_of_freedom, 0.5 + confidence / 2))


def p_value(interval: Interval, null: float, degrees: float) -> float:
    """Two-sided, of the middle of a 95 % interval with so many degrees of freedom; below 5 % outside of it."""
    half = (interval.high - interval.low) / 2
    away = abs(interval.low + half - null)
    if half == 0:
        return 1.0 if away == 0 else 0.0
    if not math.isfinite(half):
        return 1.0
    return float(2 * special.stdtr(degrees, -away / half * t_quantile(degrees)))


@dataclass(frozen=True)
class MeanRatio:
    """Geometric mean of paired ratios with Student's t interval."""

    mean: float
    interval: Interval
    n: int


def mean_ratio(first: ArrayLike, second: ArrayLike, confidence: float = CONFIDENCE) -> MeanRatio | NoFit:
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
    around = _t_interval(logs, confidence)
    return MeanRatio(math.exp(float(logs.mean())), Interval(math.exp(around.low), math.exp(around.high)), n)


def mean_interval(values: ArrayLike) -> Interval | None:
    """Student's t interval of the mean of ``values`` [n]; None for fewer than two, which show no spread."""
    sample = np.asarray(values, dtype=float)
    return _t_interval(sample) if len(sample) >= MIN_POINTS_MEAN else None


def _t_interval(values: Array, confidence: float = CONFIDENCE) -> Interval:
    """Student's t interval of the mean of ``values`` [n], n >= 2."""
    n, mean = len(values), float(values.mean())
    half = t_quantile(n - 1, confidence) * float(values.std(ddof=1)) / math.sqrt(n)
    return Interval(mean - half, mean + half)


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
    x_left, y_left = _without(given, x), _without(given, y)
    spread = float(x_left @ x_left)
    if spread <= COLLINEAR * float(((x - x.mean()) ** 2).sum()):
        return NoFit("the two quantities move together, so their parts cannot be told apart")
    value = float(x_left @ y_left) / spread
    residuals = y_left - value * x_left
    error = math.sqrt(float(residuals @ residuals) / (n - 3) / spread)
    half = t_quantile(n - 3) * error
    return Slope(value, Interval(value - half, value + half))


def _without(given: Array, values: Array) -> Array:
    """Residuals of ``values`` [n] about their line in ``given`` [n]."""
    design = np.stack([np.ones_like(given), given - given.mean()], axis=1)
    residuals: Array = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return residuals
