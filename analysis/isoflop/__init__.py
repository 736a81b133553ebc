"""Compute-optimal sizes from runs of equal compute (Hoffmann et al. 2022, sec. 3.2: Approach 2), their bias, and
predictions at other budgets. ``analysis.isoflop(df, ...)`` from Python.

The size with the least loss at one budget is found by a parabola, with an interval that may be open, or by
interpolation.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import Akima1DInterpolator
from scipy.optimize import minimize_scalar
from scipy.special import fdtrc, stdtrit

from analysis.fit.power_law import PowerLawFit, fit_power_law
from analysis.fit.student import CONFIDENCE, Interval, NoFit, exponential
from analysis.laws.law import Array
from nepa_scale.utils import callable_module

AKIMA_GRID = 2001
OUTSIDE = "the minimum is not between the sizes tried"
FEWEST_SIZES = 4
"""A parabola passes exactly through three points and shows no error."""
FEWEST_BUDGETS = 3
OPEN = "the sizes scatter too much to tell the curvature of their parabola from zero"
MISFIT = 0.01
"""p value below which the losses are no parabola over the sizes tried."""
INTERPOLATED = "an interpolation has no residuals, so no interval"
SAME_BUDGET = 0.0205
"""Runs whose log FLOPs differ by less share one budget; the isoflop grid meets its budgets within 1 %."""


@dataclass(frozen=True)
class Found:
    """log N at a minimum and its 95 % interval, whose open ends are infinite."""

    log_n: float
    interval: Interval | None
    """None where the way of finding it shows no noise."""
    misfit: float | None = None
    """p value of what the form of the curve leaves over; None where it is not tested."""


Minimum = Callable[[Array, Array], Found | None]
"""(log N [m] of distinct sizes, loss [m]) -> the minimum, None where it does not lie between the sizes."""


def parabola_minimum(log_n: Array, loss: Array) -> Found | None:
    """Vertex of the least-squares parabola of ``loss`` over ``log_n``, with Fieller's interval."""
    parabola = parabola_through(log_n, loss)
    if parabola.curvature <= 0 or not log_n.min() < parabola.vertex < log_n.max():
        return None
    return Found(parabola.vertex, vertex_interval(parabola), parabola.misfit)


def akima_minimum(log_n: Array, loss: Array) -> Found | None:
    """Minimum of the Akima interpolation of log loss (Porian et al. 2024, arXiv:2406.19146, sec. 3).

    It goes through every point, so it has no residuals to read an interval from.
    """
    curve = Akima1DInterpolator(log_n, np.log(loss))
    grid = np.linspace(log_n.min(), log_n.max(), AKIMA_GRID)
    lowest = int(curve(grid).argmin())
    if lowest in (0, AKIMA_GRID - 1):
        return None
    between = (float(grid[lowest - 1]), float(grid[lowest + 1]))
    best = minimize_scalar(curve, bounds=between, method="bounded", options={"xatol": 1e-10})
    return Found(float(best.x), None)


@dataclass(frozen=True)
class Parabola:
    """``loss = level + slope x + curvature x^2`` with x = log N - ``middle``."""

    middle: float
    level: float
    slope: float
    curvature: float
    covariance: Array
    """Of slope and curvature [2, 2]; NaN where nothing is left over for the noise."""
    left: int
    """Degrees of freedom of the noise: sizes less three."""
    misfit: float | None
    """p value of higher terms: small where the losses are no parabola. None with fewer than five sizes."""

    @property
    def vertex(self) -> float:
        """log N where the parabola is flat."""
        return self.middle - self.slope / (2 * self.curvature)

    def at(self, log_n: Array) -> Array:
        """The parabola at ``log_n`` [n]."""
        x = log_n - self.middle
        return self.level + self.slope * x + self.curvature * x**2


def parabola_through(log_n: Array, loss: Array) -> Parabola:
    """The parabola through one ``loss`` [m] for each of at least three sizes ``log_n`` [m].

    Its noise is estimated from the residuals. Seeds of one size are averaged: they share effects of that size (such as
    a learning rate that suits it better), so an interval from their spread alone would be too narrow.
    """
    middle = float(log_n.mean())
    x = log_n - middle
    design = np.stack([np.ones_like(x), x, x**2], axis=1)
    solve = np.linalg.pinv(design)
    level, slope, curvature = map(float, solve @ loss)
    residual = loss - design @ np.array([level, slope, curvature])
    left = len(log_n) - 3
    variance = float(residual @ residual) / left if left else math.nan
    return Parabola(middle, level, slope, curvature, variance * (solve @ solve.T)[1:, 1:], left, _misfit(x, residual))


def _misfit(x: Array, residual: Array) -> float | None:
    """The F test of a cubic and, with six sizes or more, a quartic term in the ``residual`` [m] over ``x`` [m]."""
    more = min(len(x) - 4, 2)
    if more < 1:
        return None
    terms, _ = np.linalg.qr(np.vander(x / np.abs(x).max(), 3 + more, increasing=True))
    explained = float(((terms[:, 3:].T @ residual) ** 2).sum())
    left, rest = len(x) - 3 - more, float(residual @ residual) - explained
    return float(fdtrc(more, left, explained / more * left / rest)) if rest > 0 else None


def vertex_interval(parabola: Parabola) -> Interval:
    """The 95 % interval of log N at the vertex by Fieller's theorem; an end may be infinite.

    The interval holds v unless the slope there, ``slope + 2 curvature v``, differs from zero by Student's t. With
    normal noise this covers 95 % for any number of sizes, where a bootstrap of four to seven is too narrow. Where the
    curvature does not differ from zero, the set has no end on one side at least (Fieller 1954, J. R. Stat. Soc. B
    16:175). Of its two rays the one with the vertex is kept: on the other a flat place would be a maximum.
    """
    everywhere = Interval(-math.inf, math.inf)
    if not parabola.left:
        return everywhere
    t2 = float(stdtrit(parabola.left, 0.5 + CONFIDENCE / 2)) ** 2
    (v_slope, v_both), (_, v_curvature) = parabola.covariance.tolist()
    square = 4 * (parabola.curvature**2 - t2 * v_curvature)
    linear = 4 * (parabola.slope * parabola.curvature - t2 * v_both)
    constant = parabola.slope**2 - t2 * v_slope
    discriminant = linear**2 - 4 * square * constant
    if square == 0 or (square < 0 and discriminant <= 0):
        return everywhere
    half = math.sqrt(max(discriminant, 0.0)) / (2 * abs(square))  # below 0 by rounding alone
    centre = parabola.middle - linear / (2 * square)
    if square > 0:
        return Interval(centre - half, centre + half)
    return Interval(-math.inf, centre - half) if parabola.vertex < centre else Interval(centre + half, math.inf)


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
    """FLOPs [n] with those within ``SAME_BUDGET`` of the lowest of a budget made equal to their mean."""
    starts: list[float] = []  # of each budget: neighbours a little apart do not join into one wide budget
    for flops in np.unique(c):
        if not starts or math.log(flops / starts[-1]) > SAME_BUDGET:
            starts.append(float(flops))
    group = np.searchsorted(starts, c, side="right") - 1
    means: Array = (np.bincount(group, weights=c) / np.bincount(group))[group]
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
    interval = exponential(lowest.interval)
    reason = OPEN if interval.low == 0 or math.isinf(interval.high) else None
    return Optimum(budget, tried, mean, lowest.log_n, interval, reason, lowest.misfit)


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


callable_module(__name__, "analysis.api.frames:isoflop")
