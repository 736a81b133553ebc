"""The best value of a swept setting at several sizes together: one value for all, values a factor apart, or a law in
the size. ``analysis.optimum(df, ...)`` from Python.

How much worse the fit of all valleys becomes with their lowest places held is an F statistic; with parabolas and normal
noise it is exact (Fieller 1954). The noise is one for all sizes. One value for all is tested over all forms that the
valleys may have (``valley.shared_place``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from analysis.fit.student import CONFIDENCE, Interval, NoFit, finite
from analysis.laws.law import Array
from analysis.optimum.valley import (
    FEWEST_SPARE,
    FEWEST_VALUES,
    NO_NOISE,
    PARABOLA,
    STEPS,
    Curve,
    Form,
    exponential,
    form_of,
    interval_about,
    least_over,
    minimum_between,
    points_of,
    shared_place,
    smallest_variance,
)
from nepa_scale.utils import callable_module


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
        return float(np.exp(np.median(np.concatenate([np.diff(np.log(curve.points.x)) for curve in self.curves]))))

    def common(self) -> Common | NoFit:
        """One value for all. Needs two curves or more, and noise."""
        if (fault := self._fault()) is not None:
            return fault
        together, count = np.zeros(len(self.curves)), len(self.curves) - 1
        rest, place = self._least(together)
        limit = rest + float(special.fdtri(1, self.left, CONFIDENCE))
        ends = interval_about(lambda places: self._rest(places, together, self.curves), limit, place, self._reach)
        interval, apart = None if self.bent else exponential(ends), math.log(self.step)
        sizes = [curve.points for curve in self.curves]
        spare = sum(len(size.x) - FEWEST_VALUES for size in sizes)
        if spare < FEWEST_SPARE:
            p_none = float(special.fdtrc(count, self.left, rest / count))
            return Common(math.exp(place), interval, p_none, self._p_apart(apart))
        shared = shared_place(sizes, apart, spare)
        return Common(math.exp(place), interval, shared.p_one, shared.p_apart)

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
            return np.array([self._least(value * off)[0] for value in exponents])

        tried = np.linspace(-steepest, steepest, STEPS + 1)
        start = int(np.argmin(rest(tried)))
        least, exponent = minimum_between(rest, tried[max(start - 1, 0)], tried[min(start + 1, STEPS)])
        spare = len(off) - 2
        quantile, scatter = float(special.fdtri(1, self.left, CONFIDENCE)), least / spare if spare else 0.0
        if scatter > 1:
            quantile = max(quantile, scatter * float(special.fdtri(1, spare, CONFIDENCE)))
        ends = interval_about(rest, least + quantile, exponent, (-steepest, steepest))
        place = self._least(exponent * off)[1]
        return Law(exponent, ends, math.exp(place - exponent * float(logs.mean())))

    def _fault(self) -> NoFit | None:
        if len(self.curves) < 2:
            return NoFit(f"fewer than two sizes have {FEWEST_VALUES} values")
        return None if self.left else NoFit(NO_NOISE)

    @property
    def _reach(self) -> tuple[float, float]:
        """The logs that one best value is looked for at."""
        ends = [curve.points.reach for curve in self.curves]
        return min(low for low, _ in ends), max(high for _, high in ends)

    def _rest(self, places: Array, offsets: Array, curves: Sequence[Curve]) -> Array:
        """Sums [n] of the F statistics of all curves being lowest at ``places`` [n] + the offset of each."""
        sums: Array = np.sum([curve.rise(places + off) for curve, off in zip(curves, offsets, strict=True)], axis=0)
        return sums

    def _least(self, offsets: Array, curves: Sequence[Curve] | None = None) -> tuple[float, float]:
        """The least of these over all places, and where it is."""
        return least_over(lambda places: self._rest(places, offsets, curves or self.curves), self._reach)

    def _p_apart(self, apart: float) -> float:
        """The largest p value of any two curves being so far ``apart``, either way; 1 where they seem to be."""
        worst = 0.0
        for pair in combinations(self.curves, 2):
            first, second = (curve.best for curve in pair)
            if first is None or second is None or abs(math.log(first / second)) >= apart:
                return 1.0
            rest = min(self._least(np.array([0.0, far]), pair)[0] for far in (apart, -apart))
            worst = max(worst, float(special.fdtrc(1, self.left, rest)))
        return worst


def sweep(x: ArrayLike, y: ArrayLike, names: ArrayLike) -> Sweep | NoFit:
    """Fit the curves of runs with setting ``x`` [n] > 0 and loss ``y`` [n]; runs of one name [n] are one curve.

    Runs of equal x are averaged and count by their number: seeds share effects of that value, so an interval from their
    spread alone would be too narrow. The noise is estimated from the residuals of all curves together.
    """
    x, y, names = np.asarray(x, dtype=float), np.asarray(y, dtype=float), np.asarray(names, dtype=object)
    points_by_name = {str(name): points_of(x[names == name], y[names == name]) for name in dict.fromkeys(names)}
    able = {name: points for name, points in points_by_name.items() if len(points.x) >= FEWEST_VALUES}
    if not able:
        return NoFit(f"no size has {FEWEST_VALUES} values")
    form, left = form_of(list(able.values()))
    lowest = {name: points.lowest(form) for name, points in able.items()}
    smallest = smallest_variance(list(able.values()))
    variance = max(sum(least for least, _ in lowest.values()) / left, smallest) if left else math.nan
    curves = tuple(Curve(name, able[name], form, *lowest[name], variance, left) for name in able)
    return Sweep(curves, tuple(name for name in points_by_name if name not in able))


def as_json(fitted: Sweep, common: Common | NoFit, law: Law | NoFit, left_out: int) -> dict[str, Any]:
    """The answer as plain data: what is not known is null, with the reason; an open end of an interval is null."""
    return {
        "confidence": CONFIDENCE,
        "left_out": left_out,
        "too_few_values": list(fitted.too_few),
        "curves": [_curve_as_json(curve) for curve in fitted.curves],
        "parabola": not fitted.bent,
        "deviation": finite(fitted.deviation),
        "one_for_all": None if isinstance(common, NoFit) else _common_as_json(common),
        "one_for_all_reason": common.reason if isinstance(common, NoFit) else None,
        "law": None if isinstance(law, NoFit) else _law_as_json(law),
        "law_reason": law.reason if isinstance(law, NoFit) else None,
    }


def _curve_as_json(curve: Curve) -> dict[str, Any]:
    x = curve.points.x
    return {
        "name": curve.name,
        "tried": [float(x[0]), float(x[-1])],
        "n_values": len(x),
        "best": curve.best,
        "interval": None if curve.interval is None else _open_ends(curve.interval),
        "edge": curve.edge,
        "tied": curve.tied.tolist() if len(curve.tied) > 1 else [],
        "reason": curve.reason,
    }


def _common_as_json(common: Common) -> dict[str, Any]:
    return {
        "value": common.value,
        "interval": None if common.interval is None else _open_ends(common.interval),
        "p_none": common.p_none,
        "p_apart": common.p_apart,
    }


def _law_as_json(law: Law) -> dict[str, Any]:
    ends = [finite(law.interval.low), finite(law.interval.high)]
    return {"exponent": law.exponent, "interval": ends, "coefficient": finite(law.coefficient)}


def _open_ends(interval: Interval) -> list[float | None]:
    return [interval.low or None, finite(interval.high)]


callable_module(__name__, "analysis.api.frames:optimum")
