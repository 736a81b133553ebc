"""Where the valley of a swept setting is lowest: one form for all sizes, a place and a height for each.

The form is a power of the distance in the logarithm of the setting, perhaps steeper on one side: a parabola is one of
a family. Each hypothesis (a valley is lowest here; all share one place; two places are a step or more apart; no
restriction) takes the form that fits it best, so that a kink or a skew is mistaken neither for a shift nor for
knowledge of the place. What the choice of a form takes from the noise is counted as a part of a degree of freedom, set
by simulation (``benchmarks/best_rate.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import permutations, product

import numpy as np
from scipy import optimize, special

from analysis.fit.student import CONFIDENCE, Interval, exponential
from analysis.laws.law import Array

FEWEST_VALUES = 3

POWERS, TILTS = (1.0, 1.5, 2.0, 3.0), (-1.0, -0.5, 0.0, 0.5, 1.0)
"""Of the forms; the tilt is over the range of the values tried."""

FEWEST_SPARE = 3
"""With fewer degrees of freedom valleys are taken for parabolas: another form must leave something over."""

FORM_TAKES = 0.75
"""Degrees of freedom that the choice of a form counts as."""

PRECISION = 1e-6
"""Noise is at least this share of the range of y: the search for a place is no more precise."""

PLACES, CLOSER, ROUNDS = 121, 8, 8
"""A search tries so many places over the whole reach, and then so many times a step that is so much finer."""

STEPS = 40
"""Of the walk to the end of an interval."""

FINE = 20
"""Steps of the grid of places to the distance that is asked about."""

OUTSIDE = "the best value is not between those tried"

NO_NOISE = f"no size has more than {FEWEST_VALUES} values, so nothing is left to tell the noise by"

OPEN = "the points scatter too much to tell the curvature from zero"


@dataclass(frozen=True)
class Form:
    """``(|u| exp(tilt u))^power``: steeper above its lowest place than below it where the tilt is above 0."""

    power: float = 2.0
    tilt: float = 0.0


PARABOLA = Form()


def heights(forms: Sequence[Form], u: Array) -> Array:
    """The ``forms`` [F, ...] at ``u`` [1 or F, ...]; each rises with the distance from 0 everywhere."""
    power, tilt = (
        np.array([getattr(form, name) for form in forms]).reshape(-1, *[1] * (u.ndim - 1)) for name in ("power", "tilt")
    )
    return np.asarray((np.abs(u) * np.exp(np.maximum(tilt * u, -1.0))) ** power)


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

    def squares(self, forms: Sequence[Form], places: Array) -> Array:
        """The least sums of squared residuals [F, n] of valleys of these ``forms`` that are lowest at ``places``
        [1 or F, n], logs of values."""
        weight = self.runs / self.runs.sum()
        height = heights(forms, np.log(self.x) - places[..., None])
        height = height - (height @ weight)[..., None]
        y = self.y - self.y @ weight
        size, along = (height**2) @ self.runs, np.maximum((height * y) @ self.runs, 0.0)  # no hill is a valley
        found: Array = (y**2) @ self.runs - along**2 / size
        return found


@dataclass(frozen=True)
class Curve:
    """The valley of one size."""

    name: str
    points: Points
    place: float
    """The log of the value where it is lowest."""
    within: Interval | None
    """95 % interval of that place; None without degrees of freedom."""

    @property
    def best(self) -> float | None:
        """The best value; None where that is not between those tried."""
        x, y = self.points.x, self.points.y
        return math.exp(self.place) if np.ptp(y) > 0 and math.log(x[0]) < self.place < math.log(x[-1]) else None

    @property
    def interval(self) -> Interval | None:
        """95 % interval of the best value; an open end is 0 or infinite. None without a best value or any noise."""
        return None if self.best is None or self.within is None else exponential(self.within)

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
            return NO_NOISE
        return OPEN if self.interval.low == 0 or math.isinf(self.interval.high) else None


Test = tuple[Callable[[Array], Array], float]
"""An F statistic of places [n], and what refutes a place."""


def points_of(x: Array, y: Array) -> Points:
    tried, which = np.unique(x, return_inverse=True)
    runs = np.bincount(which).astype(float)
    return Points(tried, np.bincount(which, weights=y) / runs, runs)


def family(sizes: Sequence[Points]) -> list[Form]:
    """All forms that valleys may have."""
    widest = max(math.log(size.x[-1] / size.x[0]) for size in sizes)
    return [Form(power, tilt / widest) for power, tilt in product(POWERS, TILTS)]


def least_over(function: Callable[[Array], Array], reach: tuple[float, float]) -> tuple[Array, Array]:
    """The least [F] of each row of ``function``, from places [1 or F, n] to values [F, n], and where it is [F]."""
    places = np.linspace(*reach, PLACES)[None]
    step = float(places[0, 1] - places[0, 0])
    for _ in range(ROUNDS + 1):
        values = function(places)
        at = values.argmin(axis=1)[:, None]
        middle = np.take_along_axis(np.broadcast_to(places, values.shape), at, axis=1)
        places, step = middle + step * np.linspace(-1, 1, 2 * CLOSER + 1), step / CLOSER
    return np.take_along_axis(values, at, axis=1)[:, 0], middle[:, 0]


def minimum_between(function: Callable[[Array], Array], low: float, high: float) -> tuple[float, float]:
    """The least of ``function`` between two ends, and where it is."""
    lowest = optimize.minimize_scalar(
        lambda at: float(function(np.array([at]))[0]), bounds=(low, high), method="bounded", options={"xatol": 1e-9}
    )
    return float(lowest.fun), float(lowest.x)


def interval_about(tests: Sequence[Test], best: float, reach: tuple[float, float]) -> Interval:
    """From the first to the last place that not all ``tests`` refute; open (infinite) where that is the ``reach``."""

    def doubt(places: Array) -> Array:
        least: Array = np.min([statistic(places) - limit for statistic, limit in tests], axis=0)
        return least

    ends = []
    for end, sign in zip(reach, (-1, 1), strict=True):
        outward = np.linspace(best, end, STEPS + 1)
        last = int(np.flatnonzero(np.append(-1.0, doubt(outward[1:])) <= 0)[-1])
        if last == STEPS:
            ends.append(sign * math.inf)
            continue
        root = optimize.brentq(lambda at: float(doubt(np.array([at]))[0]), outward[last], outward[last + 1], xtol=1e-9)
        ends.append(float(root))
    return Interval(*ends)


@dataclass(frozen=True)
class Valleys:
    """The valleys of all ``sizes`` [C], and how much worse they fit with their lowest places held."""

    sizes: Sequence[Points]
    free: bool = True
    """Whether their form is free; if not they are parabolas."""

    @cached_property
    def left(self) -> int:
        """Degrees of freedom that parabolas leave to the noise."""
        return sum(len(size.x) - FEWEST_VALUES for size in self.sizes)

    @cached_property
    def forms(self) -> list[Form]:
        """The forms [F] that the valleys may have."""
        return family(self.sizes) if self.free and self.left >= FEWEST_SPARE else [PARABOLA]

    @cached_property
    def ways(self) -> tuple[Valleys, ...]:
        """These and, where their form is free, parabolas: an interval leaves out what both refute, as points that
        scatter about a shallow valley are followed by some form too well."""
        return (self, Valleys(self.sizes, free=False)) if len(self.forms) > 1 else (self,)

    @property
    def spare(self) -> float:
        """Degrees of freedom of the noise."""
        return self.left - FORM_TAKES * (len(self.forms) > 1)

    @cached_property
    def _lowest(self) -> tuple[Array, Array]:
        """The least sums of squares [F, C] of each form and size, and the places [F, C]."""
        each = [least_over(partial(size.squares, self.forms), size.reach) for size in self.sizes]
        least, place = (np.stack(column, axis=1) for column in zip(*each, strict=True))
        return least, place

    @cached_property
    def _form(self) -> int:
        return int(self._lowest[0].sum(axis=1).argmin())

    @property
    def form(self) -> Form:
        """The form that fits best."""
        return self.forms[self._form]

    @property
    def places(self) -> Array:
        """Where each size is lowest [C]."""
        return np.asarray(self._lowest[1][self._form])

    @cached_property
    def variance(self) -> float:
        """Of one run; NaN without degrees of freedom."""
        smallest = max((PRECISION * max(float(np.ptp(size.y)) for size in self.sizes)) ** 2, 1e-300)
        return max(float(self._lowest[0][self._form].sum()) / self.spare, smallest) if self.left else math.nan

    @property
    def limit(self) -> float:
        """What the F statistic of one held place exceeds in 5 %."""
        return float(special.fdtri(1, self.spare, CONFIDENCE))

    @cached_property
    def reach(self) -> tuple[float, float]:
        """The logs that one best value is looked for at."""
        return min(size.reach[0] for size in self.sizes), max(size.reach[1] for size in self.sizes)

    def rises(self, offsets: Mapping[int, float]) -> Callable[[Array], Array]:
        """How much the sum of squares over the variance rises, by form [F, n], with the sizes that ``offsets`` names
        held at places [1 or F, n] + the offset of each."""
        least = self._lowest[0]
        others = least.sum(axis=1) - least[:, list(offsets)].sum(axis=1)

        def rise(places: Array) -> Array:
            held = [self.sizes[which].squares(self.forms, places + off) for which, off in offsets.items()]
            return np.asarray((others[:, None] + np.sum(held, axis=0) - least[self._form].sum()) / self.variance)

        return rise

    def rise(self, offsets: Mapping[int, float]) -> Callable[[Array], Array]:
        """The same [n] at places [n], of the best form at each."""
        rises = self.rises(offsets)
        return lambda places: np.maximum(rises(places[None]).min(axis=0), 0.0)

    def lowest(self, offsets: Mapping[int, float]) -> tuple[float, float]:
        """The least of these over all places, and where it is."""
        least, place = least_over(self.rises(offsets), self.reach)
        form = int(least.argmin())
        return max(float(least[form]), 0.0), float(place[form])

    def within(self, size: int) -> Interval | None:
        """95 % interval of the place of one size."""
        if not self.left:
            return None
        tests = [(way.rise({size: 0.0}), way.limit) for way in self.ways]
        return interval_about(tests, float(self.places[size]), self.sizes[size].reach)

    def p_apart(self, apart: float) -> float:
        """p value of some two being lowest at places that are ``apart``, in log x, or farther, either way."""
        pairs = permutations(range(len(self.sizes)), 2)
        return float(special.fdtrc(1, self.spare, min(self._rise_apart(*pair, apart) for pair in pairs)))

    def _rise_apart(self, first: int, second: int, apart: float) -> float:
        """The rise with the ``second`` so far above the ``first``, or farther."""
        step, least = apart / FINE, self._lowest[0]
        places = np.arange(self.reach[0], self.reach[1] + step, step)[None]
        here = self.sizes[first].squares(self.forms, places)[:, :-FINE]
        above = self.sizes[second].squares(self.forms, places)[:, FINE:]
        beyond = np.minimum.accumulate(above[:, ::-1], axis=1)[:, ::-1]
        others = least.sum(axis=1) - least[:, first] - least[:, second]
        total = here + beyond + others[:, None]
        form, at = (int(index) for index in np.unravel_index(total.argmin(), total.shape))
        if beyond[form, at] < above[form, at]:  # they are farther apart by themselves
            return max(float(least[form].sum() - least[self._form].sum()) / self.variance, 0.0)
        middle, rise = float(places[0, at]), self.rise({first: 0.0, second: apart})
        return minimum_between(rise, middle - step, middle + step)[0]
