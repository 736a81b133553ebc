"""The power law through a handful of points, with and without a floor, each with an exact or profile interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from analysis.fit.student import (
    CONFIDENCE,
    LARGEST_LOG,
    TOO_STEEP,
    Array,
    Interval,
    NoFit,
    Prediction,
    checked,
    t_quantile,
)
from analysis.laws.law import line

MIN_POINTS_POWER = 3  # two parameters and one degree of freedom for the noise
MIN_POINTS_OFFSET = 5  # three parameters; with one degree of freedom every floor would pass
FLOOR_GRID = 48
SINGULAR = 1e-10
"""An eigenvalue that is 0 but for rounding."""


class LineErrors(NamedTuple):
    """How uncertain a line in log x is, from the middle of its points on."""

    degrees: float
    """Degrees of freedom of Student's t."""
    middle: float
    """Variance of its height at the mean of log x."""
    slope: float
    """Variance of its slope."""
    both: float = 0.0
    """Covariance of the two."""


class Repeats(NamedTuple):
    """By how much the runs of one x (seeds) differ among themselves."""

    variance: float = 0.0
    """Of log y of one run about the mean of its x, pooled over all x."""
    degrees: int = 0
    share: float = 1.0
    """The means that the line is fitted to have this part of that variance: the mean over x of 1 / runs."""


@dataclass(frozen=True)
class PowerLawFit:
    """``y = a * x^-b`` with the interval of its exponent and what is needed to predict."""

    a: float
    """Value of the law at x = 1."""
    b: float
    """Exponent; positive when y falls with x."""
    b_interval: Interval
    b_leave_one_out: Interval | None
    """Smallest and largest exponent when any one point is left out; None with only three points."""
    n: int
    """Number of distinct x."""
    groups: int
    """Number of groups of x that share their noise; n where none do. The interval rests on these."""
    residual_std: float
    """Standard deviation of log y about the line (n - 2 degrees of freedom)."""
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    """The lowest and the highest y, of the mean at each x."""
    log_x_mean: float
    log_x_spread: float
    """Sum of squared deviations of log x from its mean."""
    errors: LineErrors
    repeats: Repeats

    def predict(self, x: ArrayLike) -> Prediction:
        """Predict one further run at each ``x`` [...]; this band is wider than that of the line itself.

        Where groups of x share their noise, it is that of a point of a further group, and by simulation holds 95 to 99
        % of them (Student's band of independent points 85 to 89 %).
        """
        half, _ = self.reach(x)
        y = self.a * np.asarray(x, dtype=float) ** -self.b
        with np.errstate(over="ignore"):  # three scattered points may honestly predict "anything"
            return Prediction(y, y * np.exp(-half), y * np.exp(half))

    def reach(self, x: ArrayLike) -> tuple[Array, Array]:
        """How far in log y the interval of one further run goes at each ``x`` [...], and its degrees of freedom.

        The line's residuals are those of means over runs; one run has the rest of what runs differ by, too. The sum of
        the two variances has Satterthwaite's degrees of freedom (1946, Biometrics Bulletin 2). With few places these
        may be many more than the line's own, so the interval is no narrower than that of the line's noise alone.
        """
        away = np.log(np.asarray(x, dtype=float)) - self.log_x_mean
        of_line = self.errors.middle + 2 * self.errors.both * away + self.errors.slope * away**2
        of_mean, rest = self.residual_std**2 + of_line, self.repeats.variance * (1 - self.repeats.share)
        alone, own = t_quantile(self.errors.degrees) * np.sqrt(of_mean), np.full_like(of_mean, self.errors.degrees)
        if rest == 0:
            return alone, own
        total = of_mean + rest
        degrees = total**2 / (of_mean**2 / self.errors.degrees + rest**2 / self.repeats.degrees)
        both = special.stdtrit(degrees, 0.5 + CONFIDENCE / 2) * np.sqrt(total)
        return np.maximum(alone, both), np.where(both > alone, degrees, own)


def fit_power_law(x: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> PowerLawFit | NoFit:
    """Fit ``y = a * x^-b`` to ``x`` [n], ``y`` [n] by ordinary least squares of log y on log x.

    ``groups`` [n] numbers what several x share their noise by, say the parameters of a model that was trained for
    several lengths. Where groups have several x, the interval is that of ``_errors_of_groups``.

    The interval is Student's t interval of the slope. With normal noise in log y it covers exactly 95 % for
    any n >= 3, which neither a bootstrap (too narrow with so few points) nor a robust loss can promise;
    with three to six sizes a robust loss also cannot tell an outlier from a bend. ``b_leave_one_out`` shows
    instead how much depends on a single size.

    Points with equal x (seeds of one size) are averaged in log y first: they share that size's own departure
    from the law, so counting each as independent would make the interval too narrow. Pairs with a missing
    value are left out.
    """
    points = checked(x, y, MIN_POINTS_POWER)
    if isinstance(points, NoFit):
        return points
    log_x, log_y = points
    n = len(log_x)
    intercept, slope = line(log_x, log_y)
    if abs(intercept) > LARGEST_LOG:
        return NoFit(TOO_STEEP)
    residuals = log_y - (intercept + slope * log_x)
    residual_std = math.sqrt(float(residuals @ residuals) / (n - 2))
    spread = float(((log_x - log_x.mean()) ** 2).sum())
    group = None if groups is None else _shared(np.asarray(x, dtype=float), np.asarray(groups, dtype=float), log_x)
    errors = LineErrors(n - 2, residual_std**2 / n, residual_std**2 / spread)
    if group is not None:
        errors = _errors_of_groups(log_x, residuals, group)
    half = t_quantile(errors.degrees) * math.sqrt(errors.slope)
    return PowerLawFit(
        a=math.exp(intercept),
        b=-slope,
        b_interval=Interval(-slope - half, -slope + half),
        b_leave_one_out=_leave_one_out(log_x, log_y) if n > MIN_POINTS_POWER else None,
        n=n,
        groups=n if group is None else len(np.unique(group)),
        residual_std=residual_std,
        x_range=(math.exp(log_x[0]), math.exp(log_x[-1])),
        y_range=(math.exp(log_y.min()), math.exp(log_y.max())),
        log_x_mean=float(log_x.mean()),
        log_x_spread=spread,
        errors=errors,
        repeats=_repeats(np.asarray(x, dtype=float), np.asarray(y, dtype=float)),
    )


def _repeats(x: Array, y: Array) -> Repeats:
    """What runs of one place differ by, of those x [n] and y [n] that are known."""
    present = np.isfinite(x) & np.isfinite(y)
    group = np.unique(x[present], return_inverse=True)[1]
    log_y, runs = np.log(y[present]), np.bincount(group)
    degrees = len(log_y) - len(runs)
    if degrees == 0:
        return Repeats()
    within = log_y - (np.bincount(group, weights=log_y) / runs)[group]
    return Repeats(float(within @ within) / degrees, degrees, float((1 / runs).mean()))


def _shared(x: Array, groups: NDArray[np.float64], log_x: Array) -> NDArray[np.intp] | None:
    """Which of the ``groups`` [n], numbered, each distinct x [m] belongs to; an unknown one (NaN) stands for itself.

    None where each x has a group of its own, and where all have the same: noise that all share cannot be told from the
    law.
    """
    of_x = groups[[int(np.flatnonzero(np.log(x) == place)[0]) for place in log_x]]
    numbered = np.unique(of_x, return_inverse=True, equal_nan=False)[1]
    shared: NDArray[np.intp] = numbered
    return shared if 1 < len(np.unique(shared)) < len(shared) else None


def _errors_of_groups(log_x: Array, residuals: Array, group: NDArray[np.intp]) -> LineErrors:
    """The errors of a line whose points [n] share noise within each ``group`` [n].

    The variance is the sum over groups of their own squared scores, each residual divided by the square root of what
    the fit leaves of it (CR2), and the degrees of freedom are Satterthwaite's: Bell and McCaffrey 2002; Pustejovsky and
    Tipton 2018, section 3. Where lengths share the noise of their size, these intervals miss the exponent in 4 to 7 %
    of simulated studies of four or seven sizes, Student's of all points in 10 to 24 % (benchmarks/shared_noise.py).
    """
    design = np.stack([np.ones_like(log_x), log_x - log_x.mean()], axis=1)
    inverse = np.linalg.inv(design.T @ design)
    left = np.eye(len(log_x)) - design @ inverse @ design.T
    scores, directions = [], []
    for number in np.unique(group):
        own = group == number
        values, vectors = np.linalg.eigh(left[np.ix_(own, own)])
        roots = np.where(values > SINGULAR, 1 / np.sqrt(np.maximum(values, SINGULAR)), 0.0)
        adjusted = design[own].T @ (vectors * roots @ vectors.T)
        scores.append(inverse @ adjusted @ residuals[own])
        directions.append(left[:, own] @ adjusted.T @ inverse[:, 1])
    covariance = np.stack(scores, axis=1) @ np.stack(scores)
    overlap = np.stack(directions) @ np.stack(directions, axis=1)
    degrees = np.trace(overlap) ** 2 / np.trace(overlap @ overlap)
    return LineErrors(float(degrees), covariance[0, 0], covariance[1, 1], covariance[0, 1])


def _leave_one_out(log_x: Array, log_y: Array) -> Interval:
    """Range of the exponent over the fits that each leave out one of the points [n]."""
    slopes = [line(np.delete(log_x, i), np.delete(log_y, i))[1] for i in range(len(log_x))]
    return Interval(-max(slopes), -min(slopes))


@dataclass(frozen=True)
class OffsetPowerLawFit:
    """``y = e + a * x^-b`` with the profile interval of its floor ``e``."""

    e: float
    a: float
    b: float
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
        e=e,
        a=math.exp(at_one),
        b=b,
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
