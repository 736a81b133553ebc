"""Intervals of a fitted law's parameters and of whatever is worked out from them, such as the best size of a budget.

What the points leave open is a set of laws: of few rows, fits to drawn noise, else fits to resamples. Few clusters that
hold several places are also left out one by one, and the further of both ends counts. That the larger of a conventional
and a robust error be taken where samples are small is advice of Angrist and Pischke 2009, Mostly Harmless Econometrics,
sec. 8.1: the robust one is the more variable.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import special

from analysis.fit.bootstrap import Resampling
from analysis.fit.loss import Loss, run_away
from analysis.fit.noise import Noise
from analysis.fit.student import Interval, exponential
from analysis.laws.law import Array, Parameter
from analysis.laws.restrictions import restriction_of

FEWEST = 20
"""With fewer good resamples no interval is stated."""
LARGEST = 1e100  # the third power of a difference must still be a number
STEP = 1e-5
"""Of a coordinate, which is of order one: the difference that a derivative is taken over."""

Quantity = Callable[[Array], Array]
"""Internal coordinates [S, P] -> what is asked of each law [S]; NaN where a law has no answer."""


def parameter_intervals(
    loss: Loss, fitted: Array, resampling: Resampling, confidence: float
) -> dict[str, Interval | None]:
    """The interval of every parameter of the form; one that is tied has that of the other."""
    searched = _searched(loss, fitted, resampling, confidence)
    return {
        parameter.name: searched.get(restriction_of(loss.law, parameter.name).tied or parameter.name)
        for parameter in loss.law.written
    }


def quantity_interval(quantity: Quantity, fitted: Array, resampling: Resampling, confidence: float) -> Interval | None:
    """The interval of ``quantity`` about the law ``fitted`` [P]; None where too many of the laws have no answer."""
    estimate = float(quantity(fitted[None])[0])
    if not math.isfinite(estimate):
        return None
    drawn = _drawn(quantity, estimate, fitted, resampling, confidence)
    if not resampling.by_cluster or drawn is None:
        return drawn
    left_out = jackknife_interval(estimate, quantity(resampling.jackknife), confidence)
    return left_out and _wider(left_out, drawn)


def _drawn(
    quantity: Quantity, estimate: float, fitted: Array, resampling: Resampling, confidence: float
) -> Interval | None:
    """The interval of ``quantity``, ``estimate`` at the law ``fitted`` [P], from resamples or drawn noise."""
    draws = quantity(resampling.theta)
    real = np.isfinite(draws)
    if not real.any() or (~real).sum() > len(draws) * (1 - confidence) / 2:
        return None
    if resampling.noise is None:
        left_out = quantity(resampling.jackknife)
        return bca_interval(estimate, draws[real], left_out[np.isfinite(left_out)], confidence)
    low, high = resampling.noise.kept(real).ends(draws[real], _gradient(quantity, fitted), confidence)
    return Interval(low, high)


def _gradient(quantity: Quantity, fitted: Array) -> Array:
    """The derivative [P] of ``quantity`` by each coordinate at ``fitted`` [P]."""
    steps = STEP * np.eye(len(fitted))
    return np.asarray((quantity(fitted + steps) - quantity(fitted - steps)) / (2 * STEP))


def _searched(loss: Loss, fitted: Array, resampling: Resampling, confidence: float) -> dict[str, Interval | None]:
    """The intervals of the parameters that are searched for."""
    law = loss.law
    if not len(resampling.theta) or (resampling.by_cluster and np.isnan(resampling.jackknife).any()):
        return {}
    if resampling.noise is not None:
        drawn = _from_noise(loss, fitted, resampling.theta, resampling.noise, confidence)
        return _widened(drawn, loss, fitted, resampling.jackknife, confidence) if resampling.by_cluster else {**drawn}
    natural, draws, left_out = (
        law.tell(run_away(loss, theta, only_to_bounds=True))
        for theta in (fitted[None], resampling.theta, resampling.jackknife)
    )
    return {
        name: bca_interval(float(natural[0, i]), draws[:, i], left_out[:, i], confidence)
        for i, name in enumerate(law.names)
    }


def _from_noise(loss: Loss, fitted: Array, theta: Array, noise: Noise, confidence: float) -> dict[str, Interval]:
    """Intervals of the parameters from draws ``theta`` [B, P] about the ``fitted`` coordinates."""
    law = loss.law
    matrix = law.table_gradient(fitted)
    drawn = run_away(loss, theta)
    ends = [noise.ends(drawn[:, i], matrix[i], confidence) for i in range(len(law.parameters))]
    low, high = law.tell(np.array(ends).T)
    return {name: Interval(float(low[i]), float(high[i])) for i, name in enumerate(law.names)}


def _widened(
    drawn: dict[str, Interval], loss: Loss, fitted: Array, without: Array, confidence: float
) -> dict[str, Interval | None]:
    """The intervals ``drawn``, no narrower than those of fits ``without`` [G, P] one cluster each.

    Coefficients are taken in the logarithm, floors and what is bounded as they are. A parameter that is at 0 or at a
    bound in any of the fits keeps the drawn one: what is cut off there does not vary as it would.
    """
    law = loss.law
    ended = ~np.isfinite(np.concatenate([run_away(loss, fitted[None]), run_away(loss, without)])).all(axis=0)
    coordinates, left_coordinates = law.in_table_units(fitted), law.in_table_units(without)
    values, left_values = law.tell(coordinates), law.tell(left_coordinates)
    found: dict[str, Interval | None] = {**drawn}
    for i, parameter in enumerate(law.parameters):
        if ended[i]:
            continue
        if _is_scale(parameter):
            logs = jackknife_interval(float(coordinates[i]), left_coordinates[:, i], confidence)
            own = logs and exponential(logs)
        else:
            around = jackknife_interval(float(values[i]), left_values[:, i], confidence)
            own = around and _within(around, law.reach(i))
        found[parameter.name] = own and _wider(own, drawn[parameter.name])
    return found


def _wider(first: Interval, second: Interval) -> Interval:
    """The smallest interval that holds both."""
    return Interval(min(first.low, second.low), max(first.high, second.high))


def _within(interval: Interval, reach: tuple[float, float]) -> Interval:
    """The part of ``interval`` that is in ``reach``."""
    return Interval(max(interval.low, reach[0]), min(interval.high, reach[1]))


def _is_scale(parameter: Parameter) -> bool:
    """Whether it is a free coefficient; a floor or a ceiling has the unit of y itself."""
    return parameter.positive and not parameter.bounded and parameter.unit != "y"


def jackknife_interval(estimate: float, without: Array, confidence: float) -> Interval | None:
    """The interval of what is ``without`` [G] when one of G clusters is left out, by Student's t with G - 1 degrees.

    Its variance is (G - 1) / G times the sum of squares about the estimate (Efron 1982, The Jackknife, ch. 3), which
    for least squares is the cluster-robust CR3 (Bell and McCaffrey 2002). None where one of the fits has no value.
    """
    error = float(jackknife_error(estimate, without))
    if not math.isfinite(error):
        return None
    half = float(special.stdtrit(len(without) - 1, (1 + confidence) / 2)) * error
    return Interval(estimate - half, estimate + half)


def jackknife_error(estimate: float | Array, without: Array) -> Array:
    """The jackknife's standard errors [...] of ``estimate`` [...], from values ``without`` [G, ...] one cluster each.

    NaN of fewer than two clusters, or where a value is.
    """
    count = len(without)
    if count < 2:
        return np.full(np.shape(estimate), np.nan)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.sqrt((count - 1) / count * ((without - estimate) ** 2).sum(axis=0)))


def bca_interval(estimate: float, draws: Array, jackknife: Array, confidence: float) -> Interval | None:
    """The bias-corrected accelerated interval (Efron 1987) from ``draws`` [B] and leave-one-out values [G].

    None with too few draws, or where values left the range of numbers. Without spread in ``jackknife`` the acceleration
    is 0.
    """
    largest = np.abs(np.concatenate([draws, jackknife])).max(initial=0.0)
    if len(draws) < FEWEST or not largest < LARGEST:
        return None
    below = (np.count_nonzero(draws < estimate) + 0.5 * np.count_nonzero(draws == estimate)) / len(draws)
    bias = special.ndtri(np.clip(below, 1 / len(draws), 1 - 1 / len(draws)))
    away = jackknife.mean() - jackknife if len(jackknife) else np.zeros(1)
    away = away / (np.abs(away).max() or 1.0)  # whose powers are numbers, too
    spread = float((away**2).sum())
    acceleration = float((away**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    tails = special.ndtri([(1 - confidence) / 2, (1 + confidence) / 2])
    shrink = 1 - acceleration * (bias + tails)
    if (shrink <= 0).any():  # one cluster outweighs all others; the correction has left its range
        shrink = np.ones(2)
    levels = special.ndtr(bias + (bias + tails) / shrink)
    low, high = np.quantile(draws, np.sort(levels))
    return Interval(float(low), float(high))
