"""The shift between two falling power laws: how many times the x of one law the other takes to reach the same y."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from analysis.fit.student import CONFIDENCE, Array, Interval, NoFit, checked, mean_interval, p_value
from analysis.laws.law import line

MIN_POINTS_SHIFT = 3  # of each law
STEPS = 400


@dataclass(frozen=True)
class Shift:
    """``factor``: how many times the x of the first law the second takes to come down to ``level``."""

    factor: float
    interval: Interval
    level: float
    """The middle, in logarithms, of the y that both laws reach within their x."""
    ends: tuple[tuple[float, float], tuple[float, float]]
    """(y, factor) at the largest and the smallest of these y."""
    n: tuple[int, int]
    """Distinct x of both laws."""
    p: float
    """p value of a factor of 1: below 5 % where the interval excludes it."""


@dataclass(frozen=True)
class _Line:
    """A straight line through log y [n] over log x [n] about its means."""

    x: Array
    y: Array
    slope: float

    @property
    def rest(self) -> float:
        """The sum of squared residuals."""
        return float(self.rest_through(self.inverse(0.0), 0.0))

    @property
    def around_mean(self) -> float:
        """The sum of squares about the mean of log y: the residuals of a level line."""
        return float(((self.y - self.y.mean()) ** 2).sum())

    @property
    def reach(self) -> tuple[float, float]:
        """log y at the smallest and at the largest x."""
        first, last = (float(self.y.mean() + self.slope * (end - self.x.mean())) for end in (self.x[0], self.x[-1]))
        return first, last

    def inverse(self, level: float) -> float:
        """The log x at which the line is at ``level``."""
        return float(self.x.mean() + (level - self.y.mean()) / self.slope)

    def rest_through(self, place: ArrayLike, level: float) -> Array:
        """Squared residuals of the best line that is at ``level`` at each ``place`` [...]."""
        off = self.x - np.asarray(place, dtype=float)[..., None]
        above = self.y - level
        rest: Array = (above**2).sum() - (off @ above) ** 2 / (off**2).sum(axis=-1)
        return rest

    def places(self, level: float, rest: ArrayLike) -> tuple[Array, Array]:
        """The ends of the log x at which a line with residuals of at most ``rest`` [...] may be at ``level``.

        Fieller's interval: the roots of the quadratic ``rest_through(place) = rest``, less than ``around_mean``.
        """
        x, above = self.x - self.x.mean(), self.y - level
        n, left = len(x), float(above @ above) - np.asarray(rest, dtype=float)
        square = left * n - above.sum() ** 2
        half = float(x @ above) * float(above.sum())
        root = np.sqrt(np.maximum(half**2 - square * (left * float(x @ x) - float(x @ above) ** 2), 0.0))
        return self.x.mean() + (-half - root) / square, self.x.mean() + (-half + root) / square


def matched_shift(first: tuple[ArrayLike, ArrayLike], second: tuple[ArrayLike, ArrayLike]) -> Shift | NoFit:
    """The shift from a ``first`` (x [n], y [n]) to a ``second`` (x [m], y [m]), each with a law of its own.

    The exponents may differ, so the shift is stated at one level, and at the ends of the levels that both reach. Its
    interval holds every shift d for which the best pair of lines that are d apart at that level has residuals
    ``S(d) <= S_min (1 + F(0.95; 1, n + m - 4) / (n + m - 4))``, as Fieller's does for one line. It takes the scatter
    about both to be alike, and points of equal x as one.
    """
    lines = _falling(first, second)
    if isinstance(lines, NoFit):
        return lines
    levels = _shared(*lines)
    if isinstance(levels, NoFit):
        return levels
    near, far = lines
    middle = levels[1]
    degrees = len(near.x) + len(far.x) - 4
    limit = (near.rest + far.rest) * (1 + special.fdtri(1, degrees, CONFIDENCE) / degrees)
    if near.around_mean <= limit - far.rest or far.around_mean <= limit - near.rest:
        return NoFit("the points scatter so much that a law might as well be level")
    starts = np.linspace(*near.places(middle, limit - far.rest), STEPS)
    ends = far.places(middle, np.maximum(limit - near.rest_through(starts, middle), far.rest))
    interval = Interval(float((ends[0] - starts).min()), float((ends[1] - starts).max()))
    shared = np.linspace(near.inverse(middle), far.inverse(middle), STEPS)
    together = float((near.rest_through(shared, middle) + far.rest_through(shared, middle)).min())
    least = max(near.rest + far.rest, np.finfo(float).tiny)
    p = float(special.fdtrc(1, degrees, max(together / least - 1, 0.0) * degrees))
    return _shift(lines, levels, _apart(lines, middle), interval, p)


def mean_shift(
    first: Sequence[tuple[ArrayLike, ArrayLike]], second: Sequence[tuple[ArrayLike, ArrayLike]]
) -> Shift | NoFit:
    """The mean over repetitions (seeds) of the shift from ``first`` [k] to ``second`` [k], with Student's interval.

    All repetitions are compared at the level of ``matched_shift`` of all points. The interval rests on how the shifts
    of the repetitions differ: also by what the points of one share, such as a pre-training.
    """
    pooled = _falling(_joined(first), _joined(second))
    if isinstance(pooled, NoFit):
        return pooled
    levels = _shared(*pooled)
    if isinstance(levels, NoFit):
        return levels
    apart = []
    for pair in zip(first, second, strict=True):
        lines = _falling(*pair)
        if isinstance(lines, NoFit):
            return NoFit(f"in one repetition, {lines.reason}")
        apart.append(_apart(lines, levels[1]))
    interval = mean_interval(apart)
    if interval is None:
        return NoFit("a single repetition shows no spread")
    p = p_value(interval, 0.0, len(apart) - 1)
    return _shift(pooled, levels, float(np.mean(apart)), interval, p)


def _joined(pairs: Sequence[tuple[ArrayLike, ArrayLike]]) -> tuple[Array, Array]:
    x, y = (np.concatenate([np.asarray(pair[i], dtype=float) for pair in pairs]) for i in (0, 1))
    return x, y


def _falling(*pairs: tuple[ArrayLike, ArrayLike]) -> tuple[_Line, _Line] | NoFit:
    """Both lines, or why there is one that does not fall."""
    lines = []
    for x, y in pairs:
        points = checked(x, y, MIN_POINTS_SHIFT)
        if isinstance(points, NoFit):
            return points
        slope = line(*points)[1]
        if slope >= 0:
            return NoFit("the values do not fall")
        lines.append(_Line(*points, slope))
    return lines[0], lines[1]


def _shared(near: _Line, far: _Line) -> tuple[float, float, float] | NoFit:
    """The largest log y that both reach, the middle and the smallest."""
    high, low = min(near.reach[0], far.reach[0]), max(near.reach[1], far.reach[1])
    if low >= high:
        return NoFit("there is no value that both laws reach within their points")
    return high, (low + high) / 2, low


def _apart(lines: tuple[_Line, _Line], level: float) -> float:
    return lines[1].inverse(level) - lines[0].inverse(level)


def _shift(
    lines: tuple[_Line, _Line], levels: tuple[float, float, float], apart: float, interval: Interval, p: float
) -> Shift:
    """A shift in logarithms as factors."""
    high, middle, low = levels
    largest, smallest = ((math.exp(level), math.exp(_apart(lines, level))) for level in (high, low))
    factors = Interval(math.exp(interval.low), math.exp(interval.high))
    counts = (len(lines[0].x), len(lines[1].x))
    return Shift(math.exp(apart), factors, math.exp(middle), (largest, smallest), counts, p)
