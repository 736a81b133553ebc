"""Where a swept setting is best: one form of valley for all sizes, a place and a height for each, one noise for all.

The valley is a parabola in the logarithm of the setting, or, where that does not fit, a power of log x - place that
may be steeper on one side. How much worse the fit becomes with the lowest place held is the F statistic of that place;
with a parabola and normal noise it is exact (Fieller 1954). All that is said of several sizes comes of the sum of
these: one place for all, places a factor apart, places along a power of the size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from analysis.fit.student import CONFIDENCE, Interval, NoFit
from analysis.laws.law import Array

FEWEST_VALUES = 3
MISFIT = 0.05
"""p value below which the valleys are no parabolas over the values tried."""
POWERS, TILTS = (1.0, 1.5, 2.0, 3.0), (-1.0, -0.5, 0.0, 0.5, 1.0)
"""Of other forms; the tilt is over the range of the values tried."""
ROUNDING = 1e-9
"""Residuals of this share of the range of y are rounding."""
PLACES, COARSE, STEPS = 241, 61, 40
OUTSIDE = "the best value is not between those tried"
NO_NOISE = f"no size has more than {FEWEST_VALUES} values, so nothing is left to tell the noise by"
BENT = "the curves are no parabolas over the values tried, so no interval holds: try a narrower range"
OPEN = "the points scatter too much to tell the curvature from zero"


@dataclass(frozen=True)
class Form:
    """``(|u| exp(tilt u))^power``: steeper above its lowest place than below it where the tilt is above 0."""

    power: float = 2.0
    tilt: float = 0.0

    def __call__(self, u: Array) -> Array:
        """The form at ``u`` [...]; it rises with the distance from 0 everywhere."""
        found: Array = (np.abs(u) * np.exp(np.maximum(self.tilt * u, -1.0))) ** self.power
        return found


PARABOLA = Form()


@dataclass(frozen=True)
class Points:
    """What was measured at one size."""

    x: Array
    """Distinct values tried [m], smallest first."""
    y: Array
    """Mean over the runs of each [m]; less is better."""
    runs: Array
    """Runs of each [m]."""

    @property
    def reach(self) -> tuple[float, float]:
        """The logs of the values tried, and as far again on either side."""
        low, high = math.log(self.x[0]), math.log(self.x[-1])
        return 2 * low - high, 2 * high - low

    def squares(self, form: Form, places: Array) -> Array:
        """The least sums of squared residuals [n] of valleys that are lowest at ``places`` [n], logs of values."""
        weight = self.runs / self.runs.sum()
        height = form(np.log(self.x) - places[:, None])
        height = height - (height @ weight)[:, None]
        y = self.y - self.y @ weight
        size, along = (height**2) @ self.runs, np.maximum((height * y) @ self.runs, 0.0)  # no hill is a valley
        found: Array = (y**2) @ self.runs - along**2 / size
        return found

    def lowest(self, form: Form) -> tuple[float, float]:
        """The least of these over all places, and where it is."""
        return _least(lambda places: self.squares(form, places), self.reach)


@dataclass(frozen=True)
class Curve:
    """The valley of one size."""

    name: str
    points: Points
    form: Form
    least: float
    place: float
    """Where it is lowest, and the sum of squared residuals there."""
    variance: float
    """Of one run; NaN where nothing is left to tell it by."""
    left: int

    @property
    def best(self) -> float | None:
        """The best value; None where that is not between those tried."""
        x, y = self.points.x, self.points.y
        return math.exp(self.place) if np.ptp(y) > 0 and math.log(x[0]) < self.place < math.log(x[-1]) else None

    @property
    def interval(self) -> Interval | None:
        """95 % interval of the best value; an open end is 0 or infinite. None without a best value or any noise, and of
        what is no parabola, whose lowest place is off by more than noise."""
        if self.best is None or not self.left or self.form != PARABOLA:
            return None
        limit = float(special.fdtri(1, self.left, CONFIDENCE))
        return _values(_interval(self.rise, limit, self.place, self.points.reach))

    @property
    def tied(self) -> Array:
        """The values [k] with the lowest mean."""
        return self.points.x[self.points.y == self.points.y.min()]

    @property
    def edge(self) -> str | None:
        """``lowest`` or ``highest`` where that end of the values tried alone has the lowest mean."""
        ends = {self.points.x[0]: "lowest", self.points.x[-1]: "highest"}
        return ends.get(self.tied[0]) if len(self.tied) == 1 else None

    @property
    def reason(self) -> str | None:
        """Why there is no best value, or why its interval is unknown or open."""
        if self.best is None:
            return OUTSIDE
        if self.interval is None:
            return BENT if self.left else NO_NOISE
        return OPEN if self.interval.low == 0 or math.isinf(self.interval.high) else None

    def rise(self, places: Array) -> Array:
        """The F statistics [n] of the valley being lowest at ``places`` [n]."""
        found: Array = np.maximum(self.points.squares(self.form, places) - self.least, 0.0) / self.variance
        return found


@dataclass(frozen=True)
class Law:
    """``best = coefficient * size^exponent`` through the curves."""

    exponent: float
    interval: Interval
    """95 %; an open end is infinite."""
    coefficient: float


@dataclass(frozen=True)
class Common:
    """One value for all curves, and how likely chance alone makes them look as they do."""

    value: float
    interval: Interval | None
    """95 %, given that there is one; an open end is 0 or infinite. None of curves that are no parabolas."""
    p_none: float
    """p value of there being one best value for all: small where there is none."""
    p_apart: float
    """p value of two best values being a step of the values tried, or more, apart: small where all are closer."""


@dataclass(frozen=True)
class Sweep:
    """The curves of a setting, in the order of the table."""

    curves: tuple[Curve, ...]
    too_few: tuple[str, ...] = ()
    """Names with fewer than three values."""

    @property
    def form(self) -> Form:
        """The form of all valleys."""
        return self.curves[0].form

    @property
    def bent(self) -> bool:
        """Whether the valleys are no parabolas: then the form is estimated, too, and best values have no intervals."""
        return self.form != PARABOLA

    @property
    def left(self) -> int:
        """Degrees of freedom of the noise."""
        return self.curves[0].left

    @property
    def deviation(self) -> float:
        """Standard deviation of one run about its curve; NaN without any degree of freedom."""
        return math.sqrt(self.curves[0].variance)

    @property
    def step(self) -> float:
        """The factor between neighbouring values tried, in the middle."""
        return float(np.exp(np.median(np.concatenate([np.diff(np.log(one.points.x)) for one in self.curves]))))

    def common(self) -> Common | NoFit:
        """One value for all. Needs two curves or more, and noise."""
        if (fault := self._fault()) is not None:
            return fault
        together, count = np.zeros(len(self.curves)), len(self.curves) - 1
        rest, place = self._least(together)
        limit = rest + float(special.fdtri(1, self.left, CONFIDENCE))
        ends = _interval(lambda places: self._rest(places, together, self.curves), limit, place, self._reach)
        p_none = float(special.fdtrc(count, self.left, rest / count))
        return Common(math.exp(place), None if self.bent else _values(ends), p_none, self._p_apart(math.log(self.step)))

    def law(self, sizes: ArrayLike) -> Law | NoFit:
        """The power of ``sizes`` [k], one of each curve, that the best values follow.

        Where they scatter about it by more than the noise explains, the interval is that much wider.
        """
        if (fault := self._fault()) is not None:
            return fault
        logs = np.log(np.asarray(sizes, dtype=float))
        off = logs - logs.mean()
        if np.ptp(off) == 0:
            return NoFit("all sizes are equal")
        steepest = (self._reach[1] - self._reach[0]) / float(np.ptp(off))

        def rest(exponents: Array) -> Array:
            return np.array([self._least(one * off)[0] for one in exponents])

        tried = np.linspace(-steepest, steepest, STEPS + 1)
        start = int(np.argmin(rest(tried)))
        least, exponent = _minimum(rest, tried[max(start - 1, 0)], tried[min(start + 1, STEPS)])
        spare = len(off) - 2
        quantile, scatter = float(special.fdtri(1, self.left, CONFIDENCE)), least / spare if spare else 0.0
        if scatter > 1:
            quantile = max(quantile, scatter * float(special.fdtri(1, spare, CONFIDENCE)))
        ends = _interval(rest, least + quantile, exponent, (-steepest, steepest))
        place = self._least(exponent * off)[1]
        return Law(exponent, ends, math.exp(place - exponent * float(logs.mean())))

    def _fault(self) -> NoFit | None:
        if len(self.curves) < 2:
            return NoFit(f"fewer than two sizes have {FEWEST_VALUES} values")
        return None if self.left else NoFit(NO_NOISE)

    @property
    def _reach(self) -> tuple[float, float]:
        """The logs that one best value is looked for at."""
        ends = [one.points.reach for one in self.curves]
        return min(low for low, _ in ends), max(high for _, high in ends)

    def _rest(self, places: Array, offsets: Array, curves: Sequence[Curve]) -> Array:
        """Sums [n] of the F statistics of all curves being lowest at ``places`` [n] + the offset of each."""
        found: Array = np.sum([one.rise(places + off) for one, off in zip(curves, offsets, strict=True)], axis=0)
        return found

    def _least(self, offsets: Array, curves: Sequence[Curve] | None = None) -> tuple[float, float]:
        """The least of these over all places, and where it is."""
        return _least(lambda places: self._rest(places, offsets, curves or self.curves), self._reach)

    def _p_apart(self, apart: float) -> float:
        """The largest p value of any two curves being so far ``apart``, either way; 1 where they seem to be."""
        worst = 0.0
        for pair in combinations(self.curves, 2):
            own, other = (one.best for one in pair)
            if own is None or other is None or abs(math.log(own / other)) >= apart:
                return 1.0
            rest = min(self._least(np.array([0.0, far]), pair)[0] for far in (apart, -apart))
            worst = max(worst, float(special.fdtrc(1, self.left, rest)))
        return worst


def sweep(x: ArrayLike, y: ArrayLike, names: ArrayLike) -> Sweep | NoFit:
    """Fit the curves of runs with setting ``x`` [n] > 0 and loss ``y`` [n]; runs of one name [n] are one curve.

    Runs of equal x are averaged (seeds share what that value has of its own, so their spread alone would claim too
    much) and count by their number. The noise is what all curves together leave over.
    """
    x, y, names = np.asarray(x, dtype=float), np.asarray(y, dtype=float), np.asarray(names, dtype=object)
    every = {str(name): _points(x[names == name], y[names == name]) for name in dict.fromkeys(names)}
    able = {name: own for name, own in every.items() if len(own.x) >= FEWEST_VALUES}
    if not able:
        return NoFit(f"no size has {FEWEST_VALUES} values")
    form, left = _form(list(able.values()))
    lowest = {name: own.lowest(form) for name, own in able.items()}
    rounding = ROUNDING * max(float(np.ptp(own.y)) for own in able.values())
    variance = max(sum(least for least, _ in lowest.values()) / left, rounding**2, 1e-300) if left else math.nan
    curves = tuple(Curve(name, able[name], form, *lowest[name], variance, left) for name in able)
    return Sweep(curves, tuple(name for name in every if name not in able))


def _points(x: Array, y: Array) -> Points:
    tried, which = np.unique(x, return_inverse=True)
    runs = np.bincount(which).astype(float)
    return Points(tried, np.bincount(which, weights=y) / runs, runs)


def _form(points: Sequence[Points]) -> tuple[Form, int]:
    """The form of all valleys, and how many degrees of freedom it leaves: a parabola unless that misfits (F test)."""
    left = sum(len(one.x) for one in points) - 3 * len(points)

    def squares(form: Form) -> float:
        return sum(float(one.squares(form, np.linspace(*one.reach, COARSE)).min()) for one in points)

    if left < 3:  # two more parameters must leave something over
        return PARABOLA, left
    widest = max(math.log(one.x[-1] / one.x[0]) for one in points)
    found = {form: squares(form) for form in (Form(power, tilt / widest) for power, tilt in product(POWERS, TILTS))}
    best = min(found, key=lambda form: found[form])
    rest = max(found[best], (ROUNDING * max(float(np.ptp(one.y)) for one in points)) ** 2, 1e-300)
    bent = special.fdtrc(2, left - 2, (found[PARABOLA] - found[best]) / 2 / (rest / (left - 2))) < MISFIT
    return (best, left - 2) if bent else (PARABOLA, left)


def _least(function: Callable[[Array], Array], reach: tuple[float, float]) -> tuple[float, float]:
    """The least of ``function`` over all places of a ``reach``, and where it is."""
    places = np.linspace(*reach, PLACES)
    start = int(np.argmin(function(places)))
    return _minimum(function, places[max(start - 1, 0)], places[min(start + 1, PLACES - 1)])


def _minimum(function: Callable[[Array], Array], low: float, high: float) -> tuple[float, float]:
    """The least of ``function`` between two ends, and where it is."""
    found = optimize.minimize_scalar(
        lambda at: float(function(np.array([at]))[0]), bounds=(low, high), method="bounded", options={"xatol": 1e-9}
    )
    return float(found.fun), float(found.x)


def _values(places: Interval) -> Interval:
    """The interval of values of one of their logs."""
    with np.errstate(over="ignore"):
        low, high = np.exp([places.low, places.high])
    return Interval(float(low), float(high))


def _interval(rise: Callable[[Array], Array], limit: float, best: float, reach: tuple[float, float]) -> Interval:
    """Where ``rise`` stays below ``limit`` about ``best``; open (infinite) where it does up to the ``reach``."""
    found = []
    for end, sign in zip(reach, (-1, 1), strict=True):
        outward = np.linspace(best, end, STEPS + 1)
        beyond = np.flatnonzero(rise(outward[1:]) > limit)
        if not len(beyond):
            found.append(sign * math.inf)
            continue
        inner, outer = outward[beyond[0]], outward[beyond[0] + 1]
        root = optimize.brentq(lambda at: float(rise(np.array([at]))[0]) - limit, inner, outer, xtol=1e-9)
        found.append(float(root))
    return Interval(*found)
