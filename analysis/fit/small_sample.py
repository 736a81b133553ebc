"""Estimates and honest intervals for a handful of points; a reason instead, where they cannot carry a law."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from analysis.laws.power import OffsetPowerLaw, PowerLaw

Array = NDArray[np.float64]

CONFIDENCE = 0.95
MIN_POINTS_POWER = 3  # two parameters and one degree of freedom for the noise
MIN_POINTS_OFFSET = 5  # three parameters; with one degree of freedom every floor would pass
MIN_POINTS_MEAN = 2  # one mean and one degree of freedom
FLOOR_GRID = 48


@dataclass(frozen=True)
class NoFit:
    """A law that was not fitted, and why."""

    reason: str


@dataclass(frozen=True)
class Interval:
    """A 95 % interval ``low .. high``."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Prediction:
    """The law at some x [...]: its value and the 95 % prediction interval of one further point there."""

    y: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class PowerLawFit:
    """``y = a * x^-b`` with the interval of its exponent and what is needed to predict."""

    law: PowerLaw
    b_interval: Interval
    b_leave_one_out: Interval | None
    """Smallest and largest exponent when any one point is left out; None with only three points."""
    n: int
    """Number of distinct x, which is the number of points the interval rests on."""
    residual_std: float
    """Standard deviation of log y about the line (n - 2 degrees of freedom)."""
    x_range: tuple[float, float]
    log_x_mean: float
    log_x_spread: float
    """Sum of squared deviations of log x from its mean."""

    @property
    def a(self) -> float:
        """Value of the law at x = 1."""
        return self.law.a

    @property
    def b(self) -> float:
        """Exponent; positive when y falls with x."""
        return self.law.b

    def predict(self, x: ArrayLike) -> Prediction:
        """Predict one further point at each ``x`` [...]; this band is wider than that of the line itself."""
        log_x = np.log(np.asarray(x, dtype=float))
        leverage = 1 + 1 / self.n + (log_x - self.log_x_mean) ** 2 / self.log_x_spread
        half = _t_quantile(self.n - 2) * self.residual_std * np.sqrt(leverage)
        y = self.law(x)
        with np.errstate(over="ignore"):  # three scattered points may honestly predict "anything"
            return Prediction(y, y * np.exp(-half), y * np.exp(half))


@dataclass(frozen=True)
class OffsetPowerLawFit:
    """``y = e + a * x^-b`` with the profile interval of its floor ``e``."""

    law: OffsetPowerLaw
    e_interval: Interval
    n: int


def fit_power_law(x: ArrayLike, y: ArrayLike) -> PowerLawFit | NoFit:
    """Fit ``y = a * x^-b`` to ``x`` [n], ``y`` [n] by ordinary least squares of log y on log x.

    The interval is Student's t interval of the slope. With normal noise in log y it covers exactly 95 % for
    any n >= 3, which neither a bootstrap (too narrow with so few points) nor a robust loss can promise;
    with three to six sizes a robust loss also cannot tell an outlier from a bend. ``b_leave_one_out`` shows
    instead how much hangs on a single size.

    Points with equal x (seeds of one size) are averaged in log y first: they share that size's own departure
    from the law, so counting each as independent would make the interval too narrow. Pairs with a missing
    value are left out.
    """
    checked = _checked(x, y, MIN_POINTS_POWER)
    if isinstance(checked, NoFit):
        return checked
    log_x, log_y = checked
    n = len(log_x)
    line = stats.linregress(log_x, log_y)
    slope, intercept = float(line.slope), float(line.intercept)
    half = _t_quantile(n - 2) * float(line.stderr)
    residuals = log_y - (intercept + slope * log_x)
    return PowerLawFit(
        law=PowerLaw(a=math.exp(intercept), b=-slope),
        b_interval=Interval(-slope - half, -slope + half),
        b_leave_one_out=_leave_one_out(log_x, log_y) if n > MIN_POINTS_POWER else None,
        n=n,
        residual_std=math.sqrt(float(residuals @ residuals) / (n - 2)),
        x_range=(math.exp(log_x[0]), math.exp(log_x[-1])),
        log_x_mean=float(log_x.mean()),
        log_x_spread=float(((log_x - log_x.mean()) ** 2).sum()),
    )


def fit_offset_power_law(x: ArrayLike, y: ArrayLike) -> OffsetPowerLawFit | NoFit:
    """Fit ``y = e + a * x^-b`` to ``x`` [n], ``y`` [n] by least squares in log y, e >= 0.

    ``e`` is scanned over its whole range and (a, b) solved at each value, so no start can trap the search.
    The interval holds every e whose residual sum S passes the F test (Bates and Watts 1988, Nonlinear
    Regression Analysis, ch. 6), ``S(e) <= S_min * (1 + F(0.95; 1, n-3) / (n-3))``: it needs no resampling,
    respects e >= 0, and stays wide where floor and exponent cannot be told apart.
    """
    checked = _checked(x, y, MIN_POINTS_OFFSET)
    if isinstance(checked, NoFit):
        return checked
    log_x, log_y = checked
    log_x_mean = float(log_x.mean())
    centred = log_x - log_x_mean
    if _line(centred, log_y)[1] >= 0:
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
    limit = least * (1 + stats.f.ppf(CONFIDENCE, 1, len(log_x) - 3) / (len(log_x) - 3))
    return OffsetPowerLawFit(
        law=OffsetPowerLaw(e=e, a=math.exp(log_a + b * log_x_mean), b=b),
        e_interval=_accepted(grid, costs <= limit, e),
        n=len(log_x),
    )


@dataclass(frozen=True)
class MeanRatio:
    """Geometric mean of paired ratios with Student's t interval."""

    mean: float
    interval: Interval
    n: int


def mean_ratio(first: ArrayLike, second: ArrayLike) -> MeanRatio | NoFit:
    """Geometric mean of ``first / second`` [n] over pairs, with the paired t interval of the log ratio.

    Ratios rather than differences: between two parallel power laws the ratio is the same at every size, so
    what varies is noise.
    """
    numerator, denominator = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    n = len(numerator)
    if n < MIN_POINTS_POWER:
        return NoFit(f"{n} matched {'size' if n == 1 else 'sizes'}; an interval needs at least {MIN_POINTS_POWER}")
    if (numerator <= 0).any() or (denominator <= 0).any():
        return NoFit("an error of zero has no ratio")
    logs = np.log(numerator / denominator)
    around = _t_interval(logs)
    return MeanRatio(math.exp(float(logs.mean())), Interval(math.exp(around.low), math.exp(around.high)), n)


def mean_interval(values: ArrayLike) -> Interval | None:
    """Student's t interval of the mean of ``values`` [n]; None for fewer than two, which show no spread."""
    sample = np.asarray(values, dtype=float)
    return _t_interval(sample) if len(sample) >= MIN_POINTS_MEAN else None


def _t_interval(values: Array) -> Interval:
    """Student's t interval of the mean of ``values`` [n], n >= 2."""
    n, mean = len(values), float(values.mean())
    half = _t_quantile(n - 1) * float(values.std(ddof=1)) / math.sqrt(n)
    return Interval(mean - half, mean + half)


def _checked(x: ArrayLike, y: ArrayLike, min_points: int) -> tuple[Array, Array] | NoFit:
    """Sorted distinct log x [m] with the mean log y [m] at each, or the reason why no law can be fitted."""
    x_all, y_all = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    present = np.isfinite(x_all) & np.isfinite(y_all)
    x_all, y_all = x_all[present], y_all[present]
    bad = int(((x_all <= 0) | (y_all <= 0)).sum())
    if bad:
        verb = "is" if bad == 1 else "are"
        return NoFit(f"{bad} of {len(x_all)} points {verb} zero or negative, which no power law reaches")
    distinct, group = np.unique(x_all, return_inverse=True)
    if len(distinct) < min_points:
        noun = "point" if len(distinct) == 1 else "points"
        return NoFit(f"{len(distinct)} distinct {noun}; this law needs at least {min_points}")
    log_y = np.bincount(group, weights=np.log(y_all)) / np.bincount(group)
    if np.ptp(log_y) == 0:
        return NoFit("all values are equal, so there is neither a trend nor a noise level to judge one by")
    return np.log(distinct), log_y


def _leave_one_out(log_x: Array, log_y: Array) -> Interval:
    """Range of the exponent over the fits that each leave out one of the points [n]."""
    slopes = [_line(np.delete(log_x, i), np.delete(log_y, i))[1] for i in range(len(log_x))]
    return Interval(-max(slopes), -min(slopes))


def _solve_above_floor(log_x: Array, log_y: Array, e: float) -> tuple[float, float, float]:
    """Best (log a, b) for a fixed floor ``e``, and the residual sum of squares of log y."""
    above = np.maximum(np.exp(log_y) - e, 0.02 * np.exp(log_y))  # keeps the straight-line start under the floor
    intercept, slope = _line(log_x, np.log(above))

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


def _line(x: Array, y: Array) -> tuple[float, float]:
    """Intercept and slope of the least-squares line through ``x`` [n], ``y`` [n]."""
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    return float(y.mean()) - slope * float(x.mean()), slope


def _accepted(grid: Array, passes: NDArray[np.bool_], best: float) -> Interval:
    """Hull of the accepted floors, one grid step wider on each side so that the grid can only widen it."""
    step = float(grid[1] - grid[0])
    accepted = np.append(grid[passes], best)
    low = float(accepted.min())
    return Interval(max(low - step, 0.0), float(accepted.max()) + step)


def _t_quantile(degrees_of_freedom: int) -> float:
    return float(stats.t.ppf(0.5 + CONFIDENCE / 2, degrees_of_freedom))
