"""Where the valley of a swept setting is lowest: one form for all sizes, a place and a height for each.

The valley is a parabola in the logarithm of the setting or, where that does not fit, a power of log x - place that may
be steeper on one side.

Whether several valleys share their lowest place is tested for any form. Their form is one of a family and the same for
all sizes. Each hypothesis (one place for all; two places a step or more apart; no restriction) takes the form that fits
it best, so that a kink or a skew is not mistaken for a shift. What the choice of a form takes from the noise is counted
as a part of a degree of freedom, set by simulation (``benchmarks/best_rate.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
from scipy import optimize, special

from analysis.fit.student import CONFIDENCE, Interval
from analysis.laws.law import Array

FEWEST_VALUES = 3

MISFIT = 0.05
"""p value below which the valleys are no parabolas over the values tried."""

POWERS, TILTS = (1.0, 1.5, 2.0, 3.0), (-1.0, -0.5, 0.0, 0.5, 1.0)
"""Of other forms; the tilt is over the range of the values tried."""

FEWEST_SPARE = 3
"""With fewer degrees of freedom no other form is looked for: its parameters must leave something over."""

ROUNDING = 1e-9
"""Residuals of this share of the range of y are rounding."""

PLACES, COARSE, STEPS = 241, 61, 40

OUTSIDE = "the best value is not between those tried"

NO_NOISE = f"no size has more than {FEWEST_VALUES} values, so nothing is left to tell the noise by"

BENT = "the curves are no parabolas over the values tried, so no interval holds: try a narrower range"

OPEN = "the points scatter too much to tell the curvature from zero"

FORM_TAKES = 0.75
"""Degrees of freedom that the choice of a form counts as."""
PRECISION = 1e-6
"""Noise is at least this share of the range of y: the search for a place is no more precise."""
FINE = 20
"""Steps of the grid of places to the distance that is asked about."""


@dataclass(frozen=True)
class Form:
    """``(|u| exp(tilt u))^power``: steeper above its lowest place than below it where the tilt is above 0."""

    power: float = 2.0
    tilt: float = 0.0

    def __call__(self, u: Array) -> Array:
        """The form at ``u`` [...]; it rises with the distance from 0 everywhere."""
        height: Array = (np.abs(u) * np.exp(np.maximum(self.tilt * u, -1.0))) ** self.power
        return height


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
        return least_over(lambda places: self.squares(form, places), self.reach)


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
    """Of one run; NaN without degrees of freedom."""
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
        return exponential(interval_about(self.rise, limit, self.place, self.points.reach))

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
        statistics: Array = np.maximum(self.points.squares(self.form, places) - self.least, 0.0) / self.variance
        return statistics


def points_of(x: Array, y: Array) -> Points:
    tried, which = np.unique(x, return_inverse=True)
    runs = np.bincount(which).astype(float)
    return Points(tried, np.bincount(which, weights=y) / runs, runs)


def smallest_variance(points: Sequence[Points]) -> float:
    """Of rounding; noise is at least as large."""
    return max((ROUNDING * max(float(np.ptp(size.y)) for size in points)) ** 2, 1e-300)


def family(points: Sequence[Points]) -> list[Form]:
    """All forms that valleys may have."""
    widest = max(math.log(size.x[-1] / size.x[0]) for size in points)
    return [Form(power, tilt / widest) for power, tilt in product(POWERS, TILTS)]


def form_of(points: Sequence[Points]) -> tuple[Form, int]:
    """The form of all valleys, and how many degrees of freedom it leaves: a parabola unless that misfits (F test)."""
    left = sum(len(size.x) for size in points) - 3 * len(points)

    def squares(form: Form) -> float:
        return sum(float(size.squares(form, np.linspace(*size.reach, COARSE)).min()) for size in points)

    if left < FEWEST_SPARE:
        return PARABOLA, left
    squares_by_form = {form: squares(form) for form in family(points)}
    best = min(squares_by_form, key=lambda form: squares_by_form[form])
    rest = max(squares_by_form[best], smallest_variance(points))
    bent = (
        special.fdtrc(2, left - 2, (squares_by_form[PARABOLA] - squares_by_form[best]) / 2 / (rest / (left - 2)))
        < MISFIT
    )
    return (best, left - 2) if bent else (PARABOLA, left)


def least_over(function: Callable[[Array], Array], reach: tuple[float, float]) -> tuple[float, float]:
    """The least of ``function`` over all places of a ``reach``, and where it is."""
    places = np.linspace(*reach, PLACES)
    start = int(np.argmin(function(places)))
    return minimum_between(function, places[max(start - 1, 0)], places[min(start + 1, PLACES - 1)])


def minimum_between(function: Callable[[Array], Array], low: float, high: float) -> tuple[float, float]:
    """The least of ``function`` between two ends, and where it is."""
    lowest = optimize.minimize_scalar(
        lambda at: float(function(np.array([at]))[0]), bounds=(low, high), method="bounded", options={"xatol": 1e-9}
    )
    return float(lowest.fun), float(lowest.x)


def exponential(places: Interval) -> Interval:
    """The interval of values of one of their logs."""
    with np.errstate(over="ignore"):
        low, high = np.exp([places.low, places.high])
    return Interval(float(low), float(high))


def interval_about(rise: Callable[[Array], Array], limit: float, best: float, reach: tuple[float, float]) -> Interval:
    """Where ``rise`` stays below ``limit`` about ``best``; open (infinite) where it does up to the ``reach``."""
    ends = []
    for end, sign in zip(reach, (-1, 1), strict=True):
        outward = np.linspace(best, end, STEPS + 1)
        beyond = np.flatnonzero(rise(outward[1:]) > limit)
        if not len(beyond):
            ends.append(sign * math.inf)
            continue
        inner, outer = outward[beyond[0]], outward[beyond[0] + 1]
        root = optimize.brentq(lambda at: float(rise(np.array([at]))[0]) - limit, inner, outer, xtol=1e-9)
        ends.append(float(root))
    return Interval(*ends)


@dataclass(frozen=True)
class Shared:
    """p values of there being one lowest place, and of two of them being a stated distance apart or more."""

    p_one: float
    p_apart: float


def shared_place(sizes: Sequence[Points], apart: float, left: int) -> Shared:
    """Test whether ``sizes`` [C] share their lowest place, and whether two lie ``apart``, in log x, or farther.

    ``left`` is what parabolas leave of the degrees of freedom.
    """
    valleys = _Valleys(sizes, apart)
    least, spare, count = valleys.free(), left - FORM_TAKES, len(sizes) - 1
    smallest = PRECISION * max(float(np.ptp(size.y)) for size in sizes)
    variance = max(least / spare, smallest**2)
    common, far = (max(rest - least, 0.0) / variance for rest in (valleys.common(), valleys.apart()))
    return Shared(float(special.fdtrc(count, spare, common / count)), float(special.fdtrc(1, spare, far)))


class _Valleys:
    """The least sums of squares over all forms, first on a grid of places and then between its points."""

    def __init__(self, sizes: Sequence[Points], apart: float) -> None:
        self._sizes, self._forms, self._step = sizes, family(sizes), apart / FINE
        low, high = min(size.reach[0] for size in sizes), max(size.reach[1] for size in sizes)
        self._places = np.arange(low, high + self._step, self._step)
        self._squares = np.array([[size.squares(form, self._places) for size in sizes] for form in self._forms])
        self._least = self._squares.min(axis=2)

    def free(self) -> float:
        """Each size is lowest at a place of its own."""
        return self._free(int(self._least.sum(axis=1).argmin()))

    def common(self) -> float:
        """All are lowest at one place."""
        together = self._squares.sum(axis=1)
        form, at = np.unravel_index(together.argmin(), together.shape)
        return self._near(int(form), int(at), dict.fromkeys(range(len(self._sizes)), 0))

    def apart(self) -> float:
        """Some two are lowest at places that are ``apart`` or farther, either way."""
        return min(self._apart(first, second) for first, second in permutations(range(len(self._sizes)), 2))

    def _apart(self, first: int, second: int) -> float:
        """The ``second`` is lowest so far above the ``first``, or farther; of others each at a place of its own."""
        here, above = self._squares[:, first, :-FINE], self._squares[:, second, FINE:]
        beyond = np.minimum.accumulate(above[:, ::-1], axis=1)[:, ::-1]
        others = self._least.sum(axis=1) - self._least[:, first] - self._least[:, second]
        total = here + beyond + others[:, None]
        form, at = (int(index) for index in np.unravel_index(total.argmin(), total.shape))
        if beyond[form, at] < above[form, at]:  # they are farther apart by themselves
            return self._free(form)
        alone = [size for which, size in enumerate(self._sizes) if which not in (first, second)]
        rest = sum(size.lowest(self._forms[form])[0] for size in alone)
        return rest + self._near(form, at, {first: 0, second: FINE})

    def _free(self, form: int) -> float:
        return sum(size.lowest(self._forms[form])[0] for size in self._sizes)

    def _near(self, form: int, at: int, offsets: Mapping[int, int]) -> float:
        """The least sum near the grid's place ``at``, of the sizes that ``offsets`` name, each so many steps above."""

        def total(places: Array) -> Array:
            sums = [
                self._sizes[which].squares(self._forms[form], places + steps * self._step)
                for which, steps in offsets.items()
            ]
            return np.asarray(np.sum(sums, axis=0))

        middle = float(self._places[at])
        return minimum_between(total, middle - self._step, middle + self._step)[0]
