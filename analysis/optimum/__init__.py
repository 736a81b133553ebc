"""The best value of a swept setting at several sizes together: one value for all, values a factor apart, or a law in
the size. ``analysis.optimum(df, ...)`` from Python.

How much worse the fit of all valleys becomes with their lowest places held is an F statistic, taken over all forms that
the valleys may have (``valley.py``). With fewer than three degrees of freedom they are taken for parabolas, and with
normal noise it is exact (Fieller 1954). The noise is one for all sizes.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from analysis.fit.student import CONFIDENCE, Interval, NoFit, bounds, exponential, finite, positive_bounds
from analysis.laws.law import Array
from analysis.optimum.valley import (
    FEWEST_VALUES,
    NO_NOISE,
    STEPS,
    Curve,
    Test,
    Valleys,
    interval_about,
    minimum_between,
    points_of,
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
    interval: Interval
    """95 %, given that there is one; an open end is 0 or infinite."""
    p_none: float
    """p value of there being one best value for all: small where there is none."""
    p_apart: float
    """p value of two best values being a step of the values tried, or more, apart: small where all are closer."""


@dataclass(frozen=True)
class Sweep:
    """The curves of a setting, in the order of the table."""

    curves: tuple[Curve, ...]
    valleys: Valleys
    too_few: tuple[str, ...] = ()
    """Names with fewer than three values."""

    @property
    def deviation(self) -> float:
        """Standard deviation of one run about its curve; NaN without any degree of freedom."""
        return math.sqrt(self.valleys.variance)

    @property
    def step(self) -> float:
        """The factor between neighbouring values tried, in the middle."""
        return float(np.exp(np.median(np.concatenate([np.diff(np.log(curve.points.x)) for curve in self.curves]))))

    def common(self) -> Common | NoFit:
        """One value for all. Needs two curves or more, and noise."""
        if (fault := self._fault()) is not None:
            return fault
        valleys, together, count = self.valleys, dict.fromkeys(range(len(self.curves)), 0.0), len(self.curves) - 1
        rest, place = valleys.lowest(together)
        tests = [(way.rise(together), way.lowest(together)[0] + way.limit) for way in valleys.ways]
        ends = interval_about(tests, place, valleys.reach)
        p_none = float(special.fdtrc(count, valleys.spare, rest / count))
        return Common(math.exp(place), exponential(ends), p_none, valleys.p_apart(math.log(self.step)))

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
        steepest = (self.valleys.reach[1] - self.valleys.reach[0]) / float(np.ptp(off))
        found = [_power(way, off, steepest) for way in self.valleys.ways]
        exponent, place, _ = found[0]
        ends = interval_about([test for *_, test in found], exponent, (-steepest, steepest))
        return Law(exponent, ends, math.exp(place - exponent * float(logs.mean())))

    def _fault(self) -> NoFit | None:
        if len(self.curves) < 2:
            return NoFit(f"fewer than two sizes have {FEWEST_VALUES} values")
        return None if self.valleys.left else NoFit(NO_NOISE)


def _power(valleys: Valleys, logs: Array, steepest: float) -> tuple[float, float, Test]:
    """The exponent of ``logs`` [k], centred logs of sizes, that fits best, its place at 0, and a test of others."""

    def rest(exponents: Array) -> Array:
        return np.array([valleys.lowest(dict(enumerate(exponent * logs)))[0] for exponent in exponents])

    tried = np.linspace(-steepest, steepest, STEPS + 1)
    start = int(np.argmin(rest(tried)))
    least, exponent = minimum_between(rest, tried[max(start - 1, 0)], tried[min(start + 1, STEPS)])
    spare, limit = len(logs) - 2, valleys.limit
    if spare and least / spare > 1:
        limit = max(limit, least / spare * float(special.fdtri(1, spare, CONFIDENCE)))
    return exponent, valleys.lowest(dict(enumerate(exponent * logs)))[1], (rest, least + limit)


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
    valleys = Valleys(list(able.values()))
    curves = tuple(
        Curve(name, points, float(valleys.places[i]), valleys.within(i))
        for i, (name, points) in enumerate(able.items())
    )
    return Sweep(curves, valleys, tuple(name for name in points_by_name if name not in able))


def as_json(fitted: Sweep, common: Common | NoFit, law: Law | NoFit, left_out: int) -> dict[str, Any]:
    """The answer as plain data: what is not known is null, with the reason; an open end of an interval is null."""
    return {
        "confidence": CONFIDENCE,
        "left_out": left_out,
        "too_few_values": list(fitted.too_few),
        "curves": [_curve_as_json(curve) for curve in fitted.curves],
        "form": asdict(fitted.valleys.form),
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
        "interval": positive_bounds(curve.interval),
        "edge": curve.edge,
        "tied": curve.tied.tolist() if len(curve.tied) > 1 else [],
        "reason": curve.reason,
    }


def _common_as_json(common: Common) -> dict[str, Any]:
    return {
        "value": common.value,
        "interval": positive_bounds(common.interval),
        "p_none": common.p_none,
        "p_apart": common.p_apart,
    }


def _law_as_json(law: Law) -> dict[str, Any]:
    return {"exponent": law.exponent, "interval": bounds(law.interval), "coefficient": finite(law.coefficient)}


callable_module(__name__, "analysis.api.frames:optimum")
