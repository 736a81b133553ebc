"""The one rule: how rolling forecasts become shares of the forms, a forecast, and the size of its error.

Its constants are the same for every table. docs/forecasting.md says how they were chosen,
``python benchmarks/forecasting.py`` what they do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special
from scipy.optimize import nnls

from analysis.forecast.multi_power import RATIO
from analysis.forecast.rolling import Rolled
from analysis.laws.law import Array

WITHIN = 1.05
"""An origin is judged by the points within its horizon, and by those just beyond it where x is spaced unevenly."""
ABSENT, WILD = 3.0, 9.0
"""Over the median error of the forms: what a form counts that could not be fitted, and the most that any counts."""
ADDS_UP = 1e3
SMALLEST = 1e-12
RECENT = 0.7
"""How far back in log x the steepness at the end is measured."""
PARAMETERS = 4
"""Degrees of freedom that a form takes from the points: most have four parameters, or nearly."""


@dataclass(frozen=True)
class Rule:
    """The constants.

    ``memory`` is how far back in log x an origin counts e times less; ``ridge`` pulls the shares of the forms towards
    one another; ``noise`` is the variance of a forecast change, in units of the squared standard error of
    the level of the points; ``width`` is that of an interval, in units of the expected error times the quantile of
    Student's t with ``freedom``.
    """

    memory: float = 0.7
    ridge: float = 1.0
    noise: float = 350.0
    width: float = 0.283
    freedom: float = 2.0


RULE = Rule()
FEW = 4.0
"""Intervals are wider by the root of 1 + 4 / origins^2, since one or two origins hardly show how large errors are."""


@dataclass(frozen=True)
class Combined:
    """A forecast of log y [m], the error to expect there [m], and where both come from."""

    log_value: Array
    expected_error: Array
    shares: Array
    """Of the forms [M], adding up to 1."""
    rolling_error: float
    """Root mean square of the log errors with which these shares would have forecast from earlier origins."""
    kept: float
    """Share of the forecast change that remains after noise is allowed for."""
    late_fall: Array
    """How much lower log y [m] may be if the curve is one run's, whose learning rate falls to 0 until there."""
    judged: int
    """Number of origins that had points to be judged by."""
    tested: float
    """The longest distance in log x over which a forecast was judged."""


def interval(combined: Combined, confidence: float, *, one_run: bool, rule: Rule = RULE) -> tuple[Array, Array]:
    """How far log y [m] of one further point may lie below the forecast, and how far above.

    ``one_run``: the curve is one run's, whose learning rate is not known and may be about to fall.
    """
    quantile = special.stdtrit(rule.freedom, 0.5 + confidence / 2)
    half = rule.width * quantile * combined.expected_error * np.sqrt(1 + FEW / combined.judged**2)
    return half + combined.late_fall * one_run, half


def combine(rolled: Rolled, rule: Rule = RULE) -> Combined:
    """Shares by the rolling errors, the mean of log forecasts by these, and less change where points scatter."""
    last = rolled.forecasts[:, -1]
    usable = np.isfinite(last).all(axis=1)
    errors, weights, judged, tested = rolling_errors(rolled, rule.memory)
    shares_of_usable = shares_of(errors[usable], weights, rule.ridge)
    shares = np.zeros(len(last))
    shares[usable] = shares_of_usable
    points = len(rolled.log_x)
    mean = shares_of_usable @ last[usable]
    value, end = mean[points:], mean[points - 1]
    rolling_error = float(np.sqrt(weights @ (shares_of_usable @ errors[usable]) ** 2 / weights.sum()))
    change = max(float(np.abs(value - end).max()), SMALLEST)
    squares = (rolled.log_y - mean[:points]) ** 2
    noise = rule.noise * squares.sum() / max(points - PARAMETERS, 1) / points
    kept = float(change**2 / (change**2 + noise))
    spread = shares_of_usable @ (last[usable][:, points:] - value) ** 2
    recent = np.exp((rolled.log_x - rolled.log_x[-1]) / rule.memory)
    misfit = recent @ squares / recent.sum()
    further = max(1.0, rolled.horizon / tested)  # beyond what was tested errors are taken to grow with distance
    return Combined(
        log_value=end + kept * (value - end),
        expected_error=np.sqrt((rolling_error * further) ** 2 + misfit + spread + kept * noise),
        shares=shares,
        rolling_error=rolling_error,
        kept=kept,
        late_fall=_late_fall(rolled, mean[:points]),
        judged=judged,
        tested=tested,
    )


def _late_fall(rolled: Rolled, fit: Array) -> Array:
    """How much a rate that falls to 0 at the places would lower log y [m], from the ``fit`` [n] of log y.

    A fall of the rate to 0 lowers y by about 1.5 times what y falls per e-fold of x before it (``multi_power.py``). Of
    a fall that ends at a place, the fraction is still to come that x has still to go.
    """
    before = np.searchsorted(rolled.log_x, rolled.log_x[-1] - RECENT)
    before = min(before, len(fit) - 2)
    steepness = (fit[before] - fit[-1]) / (rolled.log_x[-1] - rolled.log_x[before])
    to_go = 1 - np.exp(rolled.log_x[-1] - rolled.log_at)
    gain: Array = RATIO * max(float(steepness), 0.0) * to_go
    return gain


def rolling_errors(rolled: Rolled, memory: float) -> tuple[Array, Array, int, float]:
    """Log errors [M, R] of the forms at the points that follow each origin within the horizon.

    With them the weights [R] of these points, which add up to that of their origin, how many origins they belong to,
    and the longest distance. An origin without a point so near is judged by the next one.
    """
    log_x = rolled.log_x
    columns, weights, tested = [], [], 0.0
    for origin, count in enumerate(rolled.seen[:-1]):
        away = log_x[count:] - log_x[count - 1]
        near = away <= max(WITHIN * rolled.horizon, away[0])
        columns.append(rolled.forecasts[:, origin, count : len(log_x)][:, near] - rolled.log_y[count:][near])
        weight = np.exp((log_x[count - 1] - log_x[-1]) / memory)
        weights.append(np.full(near.sum(), weight / near.sum()))
        tested = max(tested, float(away[near].max()))
    return _tamed(np.concatenate(columns, axis=1)), np.concatenate(weights), len(columns), tested


def _tamed(errors: Array) -> Array:
    """``errors`` [M, R] without gaps, and none so large that a single one decides."""
    typical = np.nanmedian(np.abs(errors), axis=0) + SMALLEST
    complete = np.where(np.isfinite(errors), errors, ABSENT * typical)
    tamed: Array = np.clip(complete, -WILD * typical, WILD * typical)
    return tamed


def shares_of(errors: Array, weights: Array, ridge: float) -> Array:
    """Shares [M] >= 0 that add up to 1 and make the weighted squared error of the mean forecast least.

    Forms that err alike do not count twice, and forms that err to different sides balance (Bates and Granger 1969).
    The ridge, scaled by each form's own error, keeps a handful of origins from deciding for one form alone.
    """
    scaled = errors * np.sqrt(weights)
    size = np.sqrt((scaled**2).sum(axis=1)) + SMALLEST
    scale = size.min()
    rows = np.concatenate(
        [scaled.T / scale, np.diag(np.sqrt(ridge) * size / scale), np.full((1, len(errors)), ADDS_UP)]
    )
    solution, _ = nnls(rows, np.append(np.zeros(len(rows) - 1), ADDS_UP), maxiter=100 * len(errors))
    shares: Array = solution / solution.sum()
    return shares
