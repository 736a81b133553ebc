"""The power law above a floor, with the profile interval of the floor."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from analysis.fit.small_sample.answers import Array, Interval, NoFit
from analysis.fit.small_sample.points import CONFIDENCE, LARGEST_LOG, TOO_STEEP, checked, line
from analysis.laws.power import OffsetPowerLaw

MIN_POINTS_OFFSET = 5  # three parameters; with one degree of freedom every floor would pass
FLOOR_GRID = 48


@dataclass(frozen=True)
class OffsetPowerLawFit:
    """``y = e + a * x^-b`` with the profile interval of its floor ``e``."""

    law: OffsetPowerLaw
    e_interval: Interval
    n: int


def fit_offset_power_law(x: ArrayLike, y: ArrayLike) -> OffsetPowerLawFit | NoFit:
    """Fit ``y = e + a * x^-b`` to ``x`` [n], ``y`` [n] by least squares in log y, e >= 0.

    ``e`` is scanned over its whole range and (a, b) solved at each value, so no start can trap the search.
    The interval holds every e whose residual sum S passes the F test (Bates and Watts 1988, Nonlinear
    Regression Analysis, ch. 6), ``S(e) <= S_min * (1 + F(0.95; 1, n-3) / (n-3))``: it needs no resampling,
    respects e >= 0, and stays wide where floor and exponent cannot be told apart.
    """
    points = checked(x, y, MIN_POINTS_OFFSET)
    if isinstance(points, NoFit):
        return points
    log_x, log_y = points
    log_x_mean = float(log_x.mean())
    centred = log_x - log_x_mean
    if line(centred, log_y)[1] >= 0:
        return NoFit("the values do not fall, so a floor has no meaning")

    def cost(e: float) -> float:
        return _solve_above_floor(centred, log_y, e)[2]

    grid = np.linspace(0, math.exp(log_y.max()), FLOOR_GRID, endpoint=False)
    costs = np.array([cost(e) for e in grid])
    best = int(costs.argmin())
    bounds = (grid[max(best - 1, 0)], grid[min(best + 1, FLOOR_GRID - 1)])
    refined = optimize.minimize_scalar(cost, bounds=bounds, method="bounded")
    e, least = min(
        ((float(grid[best]), float(costs[best])), (float(refined.x), float(refined.fun))),
        key=lambda pair: pair[1],
    )
    log_a, b, _ = _solve_above_floor(centred, log_y, e)
    at_one = log_a + b * log_x_mean
    if at_one > LARGEST_LOG:
        return NoFit(TOO_STEEP)
    limit = least * (1 + special.fdtri(1, len(log_x) - 3, CONFIDENCE) / (len(log_x) - 3))
    return OffsetPowerLawFit(
        law=OffsetPowerLaw(e=e, a=math.exp(at_one), b=b),
        e_interval=_accepted(grid, costs <= limit, e),
        n=len(log_x),
    )


def _solve_above_floor(log_x: Array, log_y: Array, e: float) -> tuple[float, float, float]:
    """Best (log a, b) for a fixed floor ``e``, and the residual sum of squares of log y."""
    above = np.maximum(np.exp(log_y) - e, 0.02 * np.exp(log_y))  # keeps the straight-line start under the floor
    intercept, slope = line(log_x, np.log(above))

    def rise(theta: Array) -> Array:
        height: Array = np.exp(np.clip(theta[0] - theta[1] * log_x, -300, 300))
        return height

    def residuals(theta: Array) -> Array:
        return np.log(e + rise(theta)) - log_y

    def jacobian(theta: Array) -> Array:
        share = rise(theta) / (e + rise(theta))
        return np.stack([share, -log_x * share], axis=1)

    solution = optimize.least_squares(
        residuals, [intercept, -slope], jac=jacobian, method="lm", ftol=1e-12, xtol=1e-12, gtol=1e-12
    )
    return float(solution.x[0]), float(solution.x[1]), float(2 * solution.cost)


def _accepted(grid: Array, passes: NDArray[np.bool_], best: float) -> Interval:
    """Hull of the accepted floors, one grid step wider on each side so that the grid can only widen it."""
    step = float(grid[1] - grid[0])
    accepted = np.append(grid[passes], best)
    low = float(accepted.min())
    return Interval(max(low - step, 0.0), float(accepted.max()) + step)
