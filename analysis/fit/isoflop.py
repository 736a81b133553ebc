"""Compute-optimal sizes from runs of equal compute (Hoffmann et al. 2022, sec. 3.2: Approach 2), and their bias."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import Akima1DInterpolator
from scipy.optimize import minimize_scalar

from analysis.fit.small_sample import NoFit
from analysis.laws.law import Array

FEWEST_SIZES = 4
"""A parabola through three points passes exactly, so it says nothing of its own error."""
FEWEST_BUDGETS = 3
AKIMA_GRID = 2001

Minimum = Callable[[Array, Array], float | None]
"""(log N [n], log loss or loss [n]) -> log N at the minimum, None where it does not lie inside."""


@dataclass(frozen=True)
class Optimum:
    """The best size at one budget; ``reason`` says why there is none."""

    budget: float
    sizes: int
    log_n: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Allocation:
    """``N* = coefficient * C^exponent`` through the optima of several budgets; ``D* ~ C^(1 - exponent)``."""

    exponent: float
    coefficient: float
    optima: tuple[Optimum, ...]

    def best_size(self, budget: float) -> float:
        """N* at a compute ``budget``."""
        return float(self.coefficient * budget**self.exponent)


def allocation(budget: Array, n: Array, loss: Array, minimum: Minimum) -> Allocation | NoFit:
    """Find the minimum at every budget [m], then the power law through the minima by least squares of logs.

    Budgets with fewer than four sizes, or whose minimum is not between the sizes tried, give no optimum and say
    so; fewer than three optima give no law.
    """
    optima = tuple(_optimum(c, n[budget == c], loss[budget == c], minimum) for c in np.unique(budget))
    good = {one.budget: one.log_n for one in optima if one.log_n is not None}
    if len(good) < FEWEST_BUDGETS:
        reasons = "; ".join(f"{one.budget:.3g}: {one.reason}" for one in optima if one.reason)
        return NoFit(f"{len(good)} budgets have a minimum, {FEWEST_BUDGETS} are needed ({reasons})")
    slope, intercept = np.polyfit(np.log(list(good)), list(good.values()), 1)
    return Allocation(float(slope), float(np.exp(intercept)), optima)


def parabola_minimum(log_n: Array, loss: Array) -> float | None:
    """Vertex of the least-squares parabola of ``loss`` over ``log_n``."""
    middle = log_n.mean()
    curvature, slope, _ = np.polyfit(log_n - middle, loss, 2)
    if curvature <= 0:
        return None
    vertex = float(middle - slope / (2 * curvature))
    return vertex if log_n.min() < vertex < log_n.max() else None


def akima_minimum(log_n: Array, loss: Array) -> float | None:
    """Minimum of the Akima interpolation of log loss (Porian et al. 2024, arXiv:2406.19146, sec. 3)."""
    curve = Akima1DInterpolator(log_n, np.log(loss))
    grid = np.linspace(log_n.min(), log_n.max(), AKIMA_GRID)
    lowest = int(curve(grid).argmin())
    if lowest in (0, AKIMA_GRID - 1):
        return None
    between = (float(grid[lowest - 1]), float(grid[lowest + 1]))
    return float(minimize_scalar(curve, bounds=between, method="bounded", options={"xatol": 1e-10}).x)


def bias_of_parabolas(
    budget: Array, n: Array, surface: Callable[[Array, Array], Array], exponent: float, flops_per: float = 6.0
) -> float | NoFit:
    """How far parabolas miss the true ``exponent`` on this very grid when there is no noise at all.

    ``surface(N [m], D [m])`` is a fitted law taken as the truth, with D = C / (``flops_per`` N), and ``exponent``
    the one it implies, beta / (alpha + beta). Off-centre and wide grids bias parabolas (Open-Athena 2026), so an
    exponent from them is stated with this figure.
    """
    exact = allocation(budget, n, surface(n, budget / (flops_per * n)), parabola_minimum)
    return exact if isinstance(exact, NoFit) else exact.exponent - exponent


def _optimum(budget: float, n: Array, loss: Array, minimum: Minimum) -> Optimum:
    log_n, which = np.unique(np.log(n), return_inverse=True)
    if len(log_n) < FEWEST_SIZES:
        return Optimum(float(budget), len(log_n), None, f"{len(log_n)} sizes, {FEWEST_SIZES} are needed")
    mean = np.bincount(which, weights=loss) / np.bincount(which)  # seeds of one size stand for it together
    found = minimum(log_n, mean)
    reason = None if found is not None else "the minimum is not between the sizes tried"
    return Optimum(float(budget), len(log_n), found, reason)
