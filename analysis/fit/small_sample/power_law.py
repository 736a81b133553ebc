"""The power law: a straight line in logarithms, with Student's exact interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.fit.small_sample.answers import Array, Interval, NoFit, Prediction
from analysis.fit.small_sample.points import LARGEST_LOG, TOO_STEEP, checked, line, t_quantile
from analysis.laws.power import PowerLaw

MIN_POINTS_POWER = 3  # two parameters and one degree of freedom for the noise


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
        half = t_quantile(self.n - 2) * self.residual_std * np.sqrt(leverage)
        y = self.law(x)
        with np.errstate(over="ignore"):  # three scattered points may honestly predict "anything"
            return Prediction(y, y * np.exp(-half), y * np.exp(half))


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
    points = checked(x, y, MIN_POINTS_POWER)
    if isinstance(points, NoFit):
        return points
    log_x, log_y = points
    n = len(log_x)
    intercept, slope = line(log_x, log_y)
    if intercept > LARGEST_LOG:
        return NoFit(TOO_STEEP)
    residuals = log_y - (intercept + slope * log_x)
    residual_std = math.sqrt(float(residuals @ residuals) / (n - 2))
    spread = float(((log_x - log_x.mean()) ** 2).sum())
    half = t_quantile(n - 2) * residual_std / math.sqrt(spread)
    return PowerLawFit(
        law=PowerLaw(a=math.exp(intercept), b=-slope),
        b_interval=Interval(-slope - half, -slope + half),
        b_leave_one_out=_leave_one_out(log_x, log_y) if n > MIN_POINTS_POWER else None,
        n=n,
        residual_std=residual_std,
        x_range=(math.exp(log_x[0]), math.exp(log_x[-1])),
        log_x_mean=float(log_x.mean()),
        log_x_spread=spread,
    )


def _leave_one_out(log_x: Array, log_y: Array) -> Interval:
    """Range of the exponent over the fits that each leave out one of the points [n]."""
    slopes = [line(np.delete(log_x, i), np.delete(log_y, i))[1] for i in range(len(log_x))]
    return Interval(-max(slopes), -min(slopes))
