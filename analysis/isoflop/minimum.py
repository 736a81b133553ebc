"""Where the loss of several sizes at one budget is least: two ways, with an interval where there can be one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import Akima1DInterpolator
from scipy.optimize import minimize_scalar

from analysis.fit.student import Interval
from analysis.isoflop.parabola import parabola_through, vertex_interval
from analysis.laws.law import Array

AKIMA_GRID = 2001
OUTSIDE = "the minimum is not between the sizes tried"


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
