"""Rolling origins: every form is fitted to the first points only and predicts all that follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from analysis.fit.loss import SQUARED, Loss
from analysis.fit.minimise import Rows, levenberg_marquardt
from analysis.laws.curves import OFFSET, SHIFTED, SHIFTED_OFFSET
from analysis.laws.ends import BENT, BROKEN, LEVELLING, M4
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
MOST_TOGETHER = 6400
"""Points of curves that are searched together."""
SCALE = 1e-4
BLOCK = 12_000
"""Points evaluated at once: of more, the arrays no longer stay near the processor."""


@dataclass(frozen=True)
class Rolled:
    """Forecasts of log y by every form [M] from every origin.

    ``forecasts`` [M, O + 1, n + m] are at the n measured points, in order, and at the m requested places; NaN where an
    origin has seen too few points for a form. ``seen`` [O + 1] counts the points that
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


@dataclass(frozen=True)
class Asked:
    """``y`` [n] at rising ``x`` [n], both greater than 0, and the places ``at`` [m] to forecast."""

    x: Array
    y: Array
    at: Array


def roll_all(curves: Sequence[Asked]) -> list[Rolled]:
    """Fit every form at every origin of each of ``curves``; those of equally many points are searched together.

    Values that only repeat an earlier one are left out, unless too few points to forecast from would remain. The result
    for one curve does not depend on the others, apart from rounding.
    """
    measured_curves = [_measured(curve) for curve in curves]
    rolled: dict[int, Rolled] = {}
    for number in {len(curve.x) for curve in measured_curves}:
        alike = [index for index, curve in enumerate(measured_curves) if len(curve.x) == number]
        most = max(1, MOST_TOGETHER // number)
        for some in (alike[begin : begin + most] for begin in range(0, len(alike), most)):
            rolled |= zip(some, _roll_alike([measured_curves[index] for index in some]), strict=True)
    return [rolled[index] for index in range(len(measured_curves))]


def _roll_alike(curves: Sequence[Asked]) -> list[Rolled]:
    """Curves of equally many points."""
    seen = [np.append(origins(curve.x), len(curve.x)) for curve in curves]
    middles = [np.exp(np.log(curve.x).mean()) for curve in curves]
    levels = [np.exp(np.log(curve.y).mean()) for curve in curves]  # the forms' parameters are of order one there
    units = [
        Asked(curve.x / middle, curve.y / level, curve.at / middle)
        for curve, middle, level in zip(curves, middles, levels, strict=True)
    ]
    forecasts = [
        np.full((len(FORMS), len(counts), len(curve.x) + len(curve.at)), np.nan)
        for curve, counts in zip(curves, seen, strict=True)
    ]
    for form, law in enumerate(FORMS):
        enough = [
            np.array([len(np.unique(curve.x[:count])) > len(law.parameters) for count in counts])
            for curve, counts in zip(curves, seen, strict=True)
        ]
        fitted = fit_from(law, units, [counts[some] for counts, some in zip(seen, enough, strict=True)])
        for curve, level, some, theta, values in zip(units, levels, enough, fitted, forecasts, strict=True):
            if some.any():
                with np.errstate(all="ignore"):
                    values[form, some] = law.log_value(theta, np.append(curve.x, curve.at)[None]) + np.log(level)
    for values in forecasts:
        values[~np.isfinite(values).all(axis=2)] = np.nan
    return [
        Rolled(FORMS, np.log(curve.x), np.log(curve.y), np.log(curve.at), counts, values)
        for curve, counts, values in zip(curves, seen, forecasts, strict=True)
    ]


def _measured(curve: Asked) -> Asked:
    kept = measured(curve.y)
    if len(np.unique(curve.x[kept])) <= FEWEST:
        return curve
    return Asked(curve.x[kept], curve.y[kept], curve.at)


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


@dataclass(frozen=True)
class _Curves(Loss):
    """Half the mean squares of the first points of several curves: ``columns`` [V, C, n] and ``y`` [C, n].

    ``curve`` [W] says whose a weighting is, and ``seen`` [W] how many of its points count.
    """

    curve: Counts = field(kw_only=True)
    seen: Counts = field(kw_only=True)

    @property
    def scale(self) -> float:
        """What a loss is divided by: the same whatever curves are searched together."""
        return SCALE

    def second_order(self, theta: Array, rows: Rows) -> tuple[Array, Array, Array]:
        """Loss [K], gradient [K, P] and Gauss-Newton curvature [K, P, P], each over ``scale``.

        Searches that have seen alike many points are evaluated together, at these points alone.
        """
        number, parameters = theta.shape
        total, gradient = np.empty(number), np.empty((number, parameters))
        curvature = np.empty((number, parameters, parameters))
        seen = self.seen[rows]
        order = np.argsort(seen, kind="stable")
        begin = 0
        while begin < number:
            end = min(begin + max(1, BLOCK // int(seen[order[begin]])), number)
            some = order[begin:end]
            most = int(seen[some[-1]])
            residual, jacobian = self._residuals(theta[some], self.curve[rows[some]], most)
            weight = (np.arange(most) < seen[some, None]) / (seen[some, None] * self.scale)
            weighted = jacobian * weight[:, None]
            total[some] = (weight * residual**2).sum(axis=1) / 2
            gradient[some] = -(weighted @ residual[..., None])[..., 0]
            curvature[some] = weighted @ jacobian.transpose(0, 2, 1)
            begin = end
        return total, gradient, curvature

    def _residuals(self, theta: Array, curve: Counts, most: int) -> tuple[Array, Array]:
        """Residuals [K, n] of log y at the first ``most`` points, and the law's gradient [K, P, n]."""
        log_value, jacobian = self.law.evaluate(theta, self.columns[:, curve, :most])
        return np.log(self.y[curve, :most]) - log_value, np.ascontiguousarray(jacobian.transpose(0, 2, 1))


def fit_from(law: Law, curves: Sequence[Asked], seen: Sequence[Counts]) -> list[Array]:
    """theta [O, P] of least squares of log y over the first ``seen`` [O] points of each curve, all searched at once.

    Every origin searches from its own starts, then also from where earlier ones ended. Never from where later ones
    did: what the points seen leave open, such as a bend after them, would then know what comes.
    """
    numbers = [len(counts) for counts in seen]
    if not sum(numbers):
        return [np.empty((0, len(law.parameters)))] * len(curves)
    loss = _loss(law, curves, seen)
    starts = [
        law.starts(curve.x[None, :count], curve.y[:count])
        for curve, counts in zip(curves, seen, strict=True)
        for count in counts
    ]
    rows = np.repeat(np.arange(len(starts)), [len(curve_starts) for curve_starts in starts])
    theta, rows, _ = _kept(loss, np.concatenate(starts), rows, FIRST_LOOK, KEPT)
    theta, rows, value = _kept(loss, theta, rows, SEARCH, 1)
    first = np.cumsum([0, *numbers[:-1]])
    pairs = [np.array(np.tril_indices(number)[::-1]) + begin for number, begin in zip(numbers, first, strict=True)]
    earlier, their_rows = np.concatenate(pairs, axis=1)
    others, _, their_value = _kept(loss, theta[earlier], their_rows, SHARE, 1)
    lower = their_value < value
    theta, _, _ = _kept(loss, np.where(lower[:, None], others, theta), rows, FINISH, 1)
    return np.split(theta, np.cumsum(numbers)[:-1])


def _loss(law: Law, curves: Sequence[Asked], seen: Sequence[Counts]) -> _Curves:
    x, y = np.array([curve.x for curve in curves]), np.array([curve.y for curve in curves])
    curve = np.repeat(np.arange(len(curves)), [len(counts_of_curve) for counts_of_curve in seen])
    return _Curves(law, x[None], y, np.empty(0), SQUARED, curve=curve, seen=np.concatenate(seen))


def _kept(loss: Loss, theta: Array, rows: Counts, steps: int, number: int) -> tuple[Array, Counts, Array]:
    """Search from ``theta`` [S, P] and keep the best ``number`` of each row, in the order of rows."""
    minima = levenberg_marquardt(loss, theta, rows, steps)
    order = np.lexsort((minima.value, rows))
    ordered = rows[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    best = order[rank < number]
    return minima.theta[best], rows[best], minima.value[best]


def measured(y: Array) -> NDArray[np.bool_]:
    """Which of ``y`` [n], in order of x, are independent measurements.

    A curve that never rises and repeats values exactly is taken for an envelope, as some published learning curves are:
    each value was replaced by the largest that follows. Of equal values in a row only the last was then measured;
    counting all of them would suggest a plateau that was not observed. A curve that rises anywhere is left as it is. A
    true plateau of exactly equal values cannot be distinguished from an envelope and counts as one point, too.
    """
    steps = np.diff(y)
    is_measured = np.ones(len(y), dtype=bool)
    if (steps <= 0).all():
        is_measured[:-1] = steps < 0
    return is_measured
