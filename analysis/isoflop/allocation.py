"""Compute-optimal sizes from runs of equal compute (Hoffmann et al. 2022, sec. 3.2: Approach 2), their bias, and
predictions at other budgets."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.fit.power_law import PowerLawFit, fit_power_law
from analysis.fit.student import CONFIDENCE, Interval, NoFit, bounds, finite
from analysis.isoflop.minimum import OUTSIDE, Minimum
from analysis.laws.law import Array

FEWEST_SIZES = 4
"""A parabola passes exactly through three points and shows no error."""
FEWEST_BUDGETS = 3
OPEN = "the sizes scatter too much to tell the curvature of their parabola from zero"
MISFIT = 0.01
"""p value below which the losses are no parabola over the sizes tried."""
INTERPOLATED = "an interpolation has no residuals, so no interval"
SAME_BUDGET = 0.02
"""Runs whose FLOPs differ by less than this share one budget; the isoflop grid meets its budgets within 1 %."""


@dataclass(frozen=True)
class Optimum:
    """The best size at one budget; ``reason`` says why there is none, or why its interval is open or unknown."""

    budget: float
    tried: Array
    """The distinct sizes [m], smallest first."""
    loss: Array
    """Mean over the seeds of each size [m]."""
    log_n: float | None
    interval: Interval | None = None
    """95 % interval of the best size itself; an open end is 0 or infinite."""
    reason: str | None = None
    misfit: float | None = None
    """p value of the losses being a parabola; None where it was not tested."""

    @property
    def bent(self) -> bool:
        """Whether the losses are no parabola over the sizes tried, so that a vertex of one is biased."""
        return self.misfit is not None and self.misfit < MISFIT


@dataclass(frozen=True)
class Allocation:
    """``N* = coefficient * C^exponent`` through the optima of several budgets; ``D* ~ C^(1 - exponent)``."""

    exponent: float
    exponent_interval: Interval
    """Student's t interval of 95 % of the line through the logs of the minima."""
    coefficient: float
    optima: tuple[Optimum, ...]
    line: PowerLawFit
    """The same as a power law, which has intervals of further minima."""

    @property
    def budgets(self) -> int:
        """How many budgets have a minimum."""
        return sum(optimum.log_n is not None for optimum in self.optima)


def same_budgets(c: Array) -> Array:
    """FLOPs [n] with those that differ by less than ``SAME_BUDGET`` made equal."""
    order = np.argsort(c)
    apart = np.diff(np.log(c[order]), prepend=-np.inf) > SAME_BUDGET
    group = np.empty(len(c), dtype=int)
    group[order] = np.cumsum(apart)
    means: Array = (np.bincount(group, weights=c) / np.maximum(np.bincount(group), 1))[group]
    return means


def allocation(budget: Array, n: Array, loss: Array, minimum: Minimum) -> Allocation | NoFit:
    """Find the minimum at every budget [m], then the power law through the minima."""
    return through(optima(budget, n, loss, minimum))


def optima(budget: Array, n: Array, loss: Array, minimum: Minimum) -> tuple[Optimum, ...]:
    """The minimum at every budget of runs [k], cheapest first.

    Budgets with fewer than four sizes, or whose minimum is not between the sizes tried, have none, with the reason.
    """
    return tuple(_optimum(float(c), n[budget == c], loss[budget == c], minimum) for c in np.unique(budget))


def through(optima: tuple[Optimum, ...]) -> Allocation | NoFit:
    """The power law through the minima by least squares of logs; fewer than three give none.

    The interval is that of the line, not combined from the minima's own: their scatter about the line includes their
    noise and all other differences between budgets. It does not include the bias that all share (``bias_of_minima``).
    """
    good = {optimum.budget: optimum.log_n for optimum in optima if optimum.log_n is not None}
    if len(good) < FEWEST_BUDGETS:
        counts = Counter(optimum.reason or "" for optimum in optima if optimum.log_n is None)
        reasons = "; ".join(f"{count} of {len(optima)}: {reason}" for reason, count in counts.most_common())
        return NoFit(f"{len(good)} budgets have a minimum, {FEWEST_BUDGETS} are needed ({reasons})")
    line = fit_power_law(list(good), np.exp(list(good.values())))
    if isinstance(line, NoFit):
        return NoFit(f"the minima of {len(good)} budgets: {line.reason}")
    return Allocation(-line.b, Interval(-line.b_interval.high, -line.b_interval.low), line.a, optima, line)


def bias_of_minima(
    budget: Array,
    n: Array,
    surface: Callable[[Array, Array], Array],
    exponent: float,
    minimum: Minimum,
    flops_per: float = 6.0,
) -> float | NoFit:
    """How far the minima miss the true ``exponent`` on this very grid when there is no noise at all.

    ``surface(N [m], D [m])`` is a fitted law taken as the truth, with D = C / (``flops_per`` N), and ``exponent``
    the one it implies, beta / (alpha + beta). Off-centre and wide grids bias parabolas (Open-Athena 2026), so an
    exponent from them is stated with this bias.
    """
    exact = allocation(budget, n, surface(n, budget / (flops_per * n)), minimum)
    return exact if isinstance(exact, NoFit) else exact.exponent - exponent


def _optimum(budget: float, n: Array, loss: Array, minimum: Minimum) -> Optimum:
    tried, which = np.unique(n, return_inverse=True)
    mean = np.bincount(which, weights=loss) / np.bincount(which)  # seeds of one size stand for it together
    if len(tried) < FEWEST_SIZES:
        return Optimum(budget, tried, mean, None, reason=f"{len(tried)} sizes, {FEWEST_SIZES} are needed")
    lowest = minimum(np.log(tried), mean)
    if lowest is None:
        return Optimum(budget, tried, mean, None, reason=OUTSIDE)
    if lowest.interval is None:
        return Optimum(budget, tried, mean, lowest.log_n, reason=INTERPOLATED)
    with np.errstate(over="ignore"):
        low, high = map(float, np.exp([lowest.interval.low, lowest.interval.high]))
    is_open = low == 0 or math.isinf(high)
    reason = OPEN if is_open else None
    return Optimum(budget, tried, mean, lowest.log_n, Interval(low, high), reason, lowest.misfit)


@dataclass(frozen=True)
class Ahead:
    """N* at a ``budget`` with the interval of one further minimum, beside that which was ``measured``."""

    budget: float
    n: float
    interval: Interval
    measured: float | None = None

    @property
    def error(self) -> float | None:
        """Predicted over measured, less 1."""
        return None if self.measured is None else self.n / self.measured - 1


def at_budgets(law: Allocation, budgets: Sequence[float]) -> tuple[Ahead, ...]:
    """The prediction of ``law`` at each of ``budgets``."""
    return tuple(_ahead(law, budget) for budget in budgets)


def held_out(optima: tuple[Optimum, ...], held: frozenset[float]) -> tuple[Ahead, ...] | NoFit:
    """The minima of the budgets in ``held`` by the law through those of all others."""
    tested = [optimum for optimum in optima if optimum.budget in held and optimum.log_n is not None]
    if not tested:
        return NoFit("no budget that has a minimum is held out")
    law = through(tuple(optimum for optimum in optima if optimum.budget not in held))
    if isinstance(law, NoFit):
        return law
    return tuple(
        _ahead(law, optimum.budget, float(np.exp(optimum.log_n))) for optimum in tested if optimum.log_n is not None
    )


def _ahead(law: Allocation, budget: float, measured: float | None = None) -> Ahead:
    band = law.line.predict(budget)
    return Ahead(budget, float(band.y), Interval(float(band.low), float(band.high)), measured)


def as_json(
    optima: tuple[Optimum, ...],
    law: Allocation | NoFit,
    bias: float | NoFit,
    left_out: int,
    ahead: tuple[Ahead, ...] = (),
    held: tuple[Ahead, ...] | None = None,
) -> dict[str, Any]:
    """The answer as plain data: what is not known is null, with the reason; an open end of an interval is null."""
    return {
        "confidence": CONFIDENCE,
        "left_out": left_out,
        "optima": [_optimum_as_json(entry) for entry in optima],
        "law": None if isinstance(law, NoFit) else _law_as_json(law),
        "law_reason": law.reason if isinstance(law, NoFit) else None,
        "bias": None if isinstance(bias, NoFit) else bias,
        "bias_reason": bias.reason if isinstance(bias, NoFit) else None,
        "predictions": [_ahead_as_json(entry) for entry in ahead],
        "holdout": None if held is None else [_ahead_as_json(entry) for entry in held],
    }


def _optimum_as_json(optimum: Optimum) -> dict[str, Any]:
    return {
        "budget": optimum.budget,
        "sizes": [float(optimum.tried[0]), float(optimum.tried[-1])],
        "n_sizes": len(optimum.tried),
        "n": None if optimum.log_n is None else float(np.exp(optimum.log_n)),
        "interval": None if optimum.interval is None else [optimum.interval.low or None, finite(optimum.interval.high)],
        "reason": optimum.reason,
        "misfit_p": optimum.misfit,
    }


def _ahead_as_json(ahead: Ahead) -> dict[str, Any]:
    entry = {"budget": ahead.budget, "n": finite(ahead.n), "interval": bounds(ahead.interval)}
    return entry if ahead.measured is None else entry | {"measured": ahead.measured, "relative_error": ahead.error}


def _law_as_json(law: Allocation) -> dict[str, Any]:
    data = [1 - law.exponent_interval.high, 1 - law.exponent_interval.low]
    return {
        "coefficient": finite(law.coefficient),
        "n_exponent": {"value": law.exponent, "interval": bounds(law.exponent_interval)},
        "d_exponent": {"value": 1 - law.exponent, "interval": data},
        "budgets": law.budgets,
    }
