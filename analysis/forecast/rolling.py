"""Rolling origins: every form fitted to the first points only, and asked for all that follow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.fit.damped import solve
from analysis.fit.loss import SQUARED, Loss
from analysis.forecast.carried import measured
from analysis.laws.bends import BENT, BROKEN
from analysis.laws.curves import OFFSET, SHIFTED, SHIFTED_OFFSET
from analysis.laws.ends import LEVELLING, M4
from analysis.laws.law import Array, Law

Counts = NDArray[np.intp]

FORMS = (OFFSET, SHIFTED, SHIFTED_OFFSET, LEVELLING, M4, BENT, BROKEN)
"""The forms that compete, with a floor and without, straight and bent. The plain power law is in most of them."""
FEWEST = 5
"""Distinct x that the first origin has seen."""
MOST_ORIGINS = 12
FIRST_LOOK, SEARCH, SHARE, FINISH = 10, 100, 15, 200
"""Steps of the four stages of a search."""
KEPT = 5


@dataclass(frozen=True)
class Rolled:
    """What ``forms`` [M] said of every point from every origin, in log y.

    ``forecasts`` [M, O + 1, n + m] are at the n points that were measured (``carried.py``), in order, and at the m
    places asked for; NaN where an origin has seen too few points for a form. ``seen`` [O + 1] counts the points that
    an origin has seen; the last one has seen all.
    """

    forms: tuple[Law, ...]
    log_x: Array
    log_y: Array
    log_at: Array
    seen: Counts
    forecasts: Array

    @property
    def horizon(self) -> float:
        """How far the request reaches beyond the last point, in log x."""
        return float(self.log_at.max() - self.log_x[-1])


def roll(x: Array, y: Array, at: Array) -> Rolled:
    """Fit every form at every origin to ``y`` [n] at rising ``x`` [n], for the places ``at`` [m].

    Values that were carried on do not count, unless too few points to forecast from would remain.
    """
    own = measured(y)
    if len(np.unique(x[own])) > FEWEST:
        x, y = x[own], y[own]
    middle, level = np.exp(np.log(x).mean()), np.exp(np.log(y).mean())  # the forms' parameters are of order one there
    places = np.concatenate([x, at]) / middle
    seen = np.append(origins(x), len(x))
    forecasts = np.full((len(FORMS), len(seen), len(places)), np.nan)
    for forecast, law in zip(forecasts, FORMS, strict=True):
        distinct = np.array([len(np.unique(x[:count])) for count in seen])
        enough = distinct > len(law.parameters)
        if enough.any():
            theta = fit_from(law, x / middle, y / level, seen[enough])
            with np.errstate(all="ignore"):
                forecast[enough] = law.log_value(theta, places[None]) + np.log(level)
    forecasts[~np.isfinite(forecasts).all(axis=2)] = np.nan
    return Rolled(FORMS, np.log(x), np.log(y), np.log(at), seen, forecasts)


def origins(x: Array) -> Counts:
    """Counts of points after which to forecast: at most ``MOST_ORIGINS`` of them, evenly along log x."""
    ends = np.append(np.flatnonzero(np.diff(x) > 0) + 1, len(x))  # points of equal x are seen together
    candidates = ends[FEWEST - 1 : -1]
    if len(candidates) <= MOST_ORIGINS:
        return candidates
    log_x = np.log(x[candidates - 1])
    wanted = np.linspace(log_x[0], log_x[-1], MOST_ORIGINS)
    chosen: Counts = candidates[np.unique(np.searchsorted(log_x, wanted - 1e-12).clip(max=len(candidates) - 1))]
    return chosen


def fit_from(law: Law, x: Array, y: Array, seen: Counts) -> Array:
    """theta [O, P] of least squares of log y over the first ``seen`` [O] points each, all searched at once.

    Every origin searches from its own starts, then also from where earlier ones ended. Never from where later ones
    did: what the points seen leave open, such as a bend after them, would then know what comes.
    """
    loss = Loss(law, x[None], y, (np.arange(len(x)) < seen[:, None]) / seen[:, None], SQUARED)
    starts = [law.starts(x[None, :count], y[:count]) for count in seen]
    rows = np.repeat(np.arange(len(seen)), [len(own) for own in starts])
    theta, rows, _ = _kept(loss, np.concatenate(starts), rows, FIRST_LOOK, KEPT)
    theta, rows, value = _kept(loss, theta, rows, SEARCH, 1)
    earlier, their_rows = np.tril_indices(len(seen))[::-1]
    others, _, their_value = _kept(loss, theta[earlier], their_rows, SHARE, 1)
    lower = their_value < value
    theta, _, _ = _kept(loss, np.where(lower[:, None], others, theta), rows, FINISH, 1)
    return theta


def _kept(loss: Loss, theta: Array, rows: Counts, steps: int, number: int) -> tuple[Array, Counts, Array]:
    """Search from ``theta`` [S, P] and keep the best ``number`` of each row, in the order of rows."""
    minima = solve(loss, theta, rows, steps)
    order = np.lexsort((minima.value, rows))
    ordered = rows[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    best = order[rank < number]
    return minima.theta[best], rows[best], minima.value[best]
