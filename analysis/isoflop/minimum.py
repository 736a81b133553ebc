"""The size with the least loss at one budget: by a parabola, with an interval that may be open, or by interpolation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import Akima1DInterpolator
from scipy.optimize import minimize_scalar
from scipy.special import fdtrc, stdtrit

from analysis.fit.student import CONFIDENCE, Interval
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
