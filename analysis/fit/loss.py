"""What a fit minimises: the Huber loss of its residuals, for many weightings of the same points at once; and which
parameters have an effect on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import huber

from analysis.fit.minimise import Rows
from analysis.laws.law import Array, Law

SQUARED = float("inf")
"""The ``delta`` of plain least squares."""
DAMPING = 1e-6
VANISHED = 1e-3
"""A bounded parameter has reached its end where a change of it changes no value by more than this fraction of the
change.
"""
HALVINGS = 40


@dataclass(frozen=True)
class Loss:
    """``sum_i w_i Huber_delta(log y_i - log f(x_i))`` (Huber 1964; Hoffmann et al. 2022, eq. 3), over its scale.

    Where not ``logarithmic``, residuals are of ``y`` itself, as shares of its ``level``, and so is delta. ``columns``
    [V, n], ``y`` [n]; ``weights`` [W, n] has a row for every weighting (a resample counts its points), and a search
    says by its number which row is its own. ``shifts`` [W, n], where given, are added to the residuals.
    The scale makes the objective of order one whatever delta is: quasi-Newton codes that stop at an absolute
    change otherwise stop at their start.
    """

    law: Law
    columns: Array
    y: Array
    weights: Array
    delta: float
    logarithmic: bool = True
    level: float = 1.0
    shifts: Array | None = None

    @property
    def scale(self) -> float:
        """What the sum is divided by while searching."""
        smallest = 1e-2 if np.isinf(self.delta) else min(self.delta, 1e-2)
        return smallest * 1e-2 * len(self.y)

    def total(self, value: float) -> float:
        """The summed loss in the units of ``y`` from the scaled ``value`` of a search."""
        return value * self.scale * (1.0 if self.logarithmic else self.level**2)

    def __call__(self, theta: Array, rows: Rows) -> tuple[Array, Array]:
        """Scaled loss [K] and gradient [K, P] of ``theta`` [K, P] under the weightings ``rows`` [K]."""
        residual, jacobian = self.residuals(theta, rows)
        weights = self.weights[rows]
        influence = np.clip(residual, -self.delta, self.delta)
        total = (weights * huber(self.delta, residual)).sum(axis=1) / self.scale
        gradient = -np.einsum("kn,knp->kp", weights * influence, jacobian) / self.scale
        return total, gradient

    def residuals(self, theta: Array, rows: Rows | None = None) -> tuple[Array, Array]:
        """Residuals [K, n] of ``theta`` [K, P] and the law's gradient [K, n, P] in the same measure.

        ``rows`` [K] chooses the shifts; without it there are none.
        """
        log_value, jacobian = self.law.evaluate(theta, self.columns)
        shift = 0.0 if rows is None or self.shifts is None else self.shifts[rows]
        if self.logarithmic:
            return np.log(self.y) - log_value + shift, jacobian
        with np.errstate(over="ignore", invalid="ignore"):  # a step of the search may leave the range of numbers
            value = np.exp(log_value - np.log(self.level))
            return self.y / self.level - value + shift, value[..., None] * jacobian

    @np.errstate(invalid="ignore")  # where a start is outside what the law can be
    def curvature(self, theta: Array, rows: Rows) -> Array:
        """Gauss-Newton curvature [K, P, P] of the scaled loss, residuals weighted as by Huber's influence."""
        residual, jacobian = self.residuals(theta, rows)
        weights = self.weights[rows] * np.minimum(1.0, self.delta / np.maximum(np.abs(residual), 1e-300))
        return np.einsum("kn,knp,knq->kpq", weights, jacobian, jacobian, optimize=True) / self.scale

    def second_order(self, theta: Array, rows: Rows) -> tuple[Array, Array, Array]:
        """Scaled loss [K], gradient [K, P] and Gauss-Newton curvature [K, P, P] from one evaluation of the law."""
        residual, jacobian = self.residuals(theta, rows)
        weights = self.weights[rows]
        total = (weights * huber(self.delta, residual)).sum(axis=1) / self.scale
        influence = weights * np.minimum(1.0, self.delta / np.maximum(np.abs(residual), 1e-300)) / self.scale
        weighted = (influence[..., None] * jacobian).transpose(0, 2, 1)
        return total, -(weighted @ residual[..., None])[..., 0], weighted @ jacobian

    def inverse_hessian(self, theta: Array, rows: Rows) -> Array:
        """A scaling [K, P, P] for the first step of a search."""
        return damped_inverse(self.curvature(theta, rows))


def damped_inverse(curvature: Array) -> Array:
    """Inverses of ``curvature`` [K, P, P], damped so that flat directions stay bounded."""
    curvature = np.where(np.isfinite(curvature), curvature, 0.0)
    size = np.einsum("kpp->kp", curvature)
    damping = DAMPING * np.maximum(size, 1e-12) + 1e-12 * size.max(axis=1, keepdims=True) + 1e-30
    inverse: Array = np.linalg.inv(curvature + damping[:, :, None] * np.eye(curvature.shape[1]))
    return inverse


def effect(loss: Loss, theta: Array) -> Array:
    """The largest change [K, P] of log y, at any point, per change of each internal coordinate."""
    _, jacobian = loss.law.evaluate(theta, loss.columns)
    return np.asarray(np.abs(jacobian).max(axis=1))


def vanished(loss: Loss, theta: Array) -> NDArray[np.bool_]:
    """Which parameters [P] have no effect at ``theta`` [P]: they are at 0 or at a bound, and their coordinate
    diverges."""
    return np.asarray(ending(loss.law) & (effect(loss, theta[None])[0] < VANISHED))


def ending(law: Law) -> NDArray[np.bool_]:
    """Which parameters [P] have an end: 0 or a bound."""
    return np.array([parameter.ends for parameter in law.parameters], dtype=bool)


def run_away(loss: Loss, theta: Array, only_to_bounds: bool = False) -> Array:
    """``theta`` [K, P] in the units of the table, infinite where a parameter has diverged and has no effect."""
    coordinates = loss.law.in_table_units(theta)
    which = np.array([parameter.bounded for parameter in loss.law.parameters]) if only_to_bounds else ending(loss.law)
    lost = which & (effect(loss, theta) < VANISHED)
    if not lost.any():
        return coordinates
    usual = loss.law.in_table_units(np.median(loss.law.starts(loss.columns, loss.y), axis=0))
    return np.where(lost, np.copysign(np.inf, coordinates - usual), coordinates)


def with_effect(loss: Loss, starts: Array, theta: Array, share: float, which: Iterable[int]) -> Array:
    """``theta`` [K, P] with each parameter in ``which`` that has less effect than ``share`` moved to have it.

    It is moved towards where the law's ``starts`` [S, P] have it, no further than needed.
    """
    theta = theta.copy()
    for i in which:
        faint = np.flatnonzero(effect(loss, theta)[:, i] < share)
        if not len(faint):
            continue
        near, far = np.full(len(faint), np.median(starts[:, i])), theta[faint, i]
        for _ in range(HALVINGS):
            theta[faint, i] = (near + far) / 2
            lost = effect(loss, theta[faint])[:, i] < share
            near, far = np.where(lost, near, theta[faint, i]), np.where(lost, theta[faint, i], far)
        theta[faint, i] = near
    return theta
