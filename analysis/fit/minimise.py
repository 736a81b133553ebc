"""Many small minimisations at once: BFGS, and Levenberg and Marquardt's steps where residuals are squared.

Both work on S independent problems that share one vectorised objective. On squares Levenberg-Marquardt needs tens of
steps and BFGS hundreds; the Huber loss of a small delta has kinks, which BFGS passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analysis.laws.law import Array

if TYPE_CHECKING:
    from analysis.fit.loss import Loss

Rows = NDArray[np.intp]
Objective = Callable[[Array, Rows], tuple[Array, Array]]
"""(theta [K, P], rows [K]) -> values [K] and gradients [K, P]; a row is the number of a search's weighting."""

MAX_STEPS = 600
SUFFICIENT, CURVATURE = 1e-4, 0.9  # Nocedal and Wright 2006, sec. 3.1: the weak Wolfe conditions
MAX_TRIALS = 30
LONGEST_MOVE = 3.0
"""Largest change of any internal coordinate in one step: a factor of 20 for a positive parameter."""
START, EASE, TIGHTEN, MOST = 1e-2, 0.3, 4.0, 1e9
"""The damping at first, what it is multiplied by after a step that helped or did not, and where a search gives up."""
SOFTEST, LEAST = 1e-9, 1e-12
"""The smallest damping, and the smallest curvature that a coordinate is scaled by."""
LONGEST_STEP = 2.0
"""Largest change of any internal coordinate in one step."""
LEAST_GAIN, PATIENCE = 1e-5, 5
"""A search ends after this many steps in a row that gained less than this share."""


@dataclass(frozen=True)
class Minima:
    """Where the searches ended: theta [S, P] and value [S]."""

    theta: Array
    value: Array


def bfgs(
    objective: Objective,
    start: Array,
    rows: Rows,
    inverse_hessian: Array,
    tolerance: float = 1e-9,
    gain: float = 1e-15,
) -> Minima:
    """Search from every row of ``start`` [S, P] until no gradient component exceeds ``tolerance``.

    A search also ends with a step that gains no more than the share ``gain`` of the value.

    ``inverse_hessian`` [S, P, P] scales the first steps (Gauss-Newton's is a good one). Lewis and Overton
    (2013) show that BFGS with a weak Wolfe line search also minimises functions with kinks, such as a Huber
    loss of tiny delta. A search whose value is not finite at its start stays there.
    """
    theta, scale = start.copy(), inverse_hessian.copy()
    value, gradient = objective(theta, rows)
    active = np.flatnonzero(np.isfinite(value) & np.isfinite(gradient).all(axis=1))
    for _ in range(MAX_STEPS):
        active = active[np.abs(gradient[active]).max(axis=1) > tolerance] if len(active) else active
        if not len(active):
            break
        direction = -np.einsum("kij,kj->ki", scale[active], gradient[active])
        slope = np.einsum("ki,ki->k", direction, gradient[active])
        lost = slope >= 0
        direction[lost], slope[lost] = -gradient[active][lost], -(gradient[active][lost] ** 2).sum(axis=1)
        scale[active[lost]] = np.eye(theta.shape[1])
        direction, slope = _shortened(direction, slope)
        length, new_value, new_gradient = _line_search(
            objective, theta[active], value[active], direction, slope, rows[active]
        )
        moved = length > 0
        step = (length[:, None] * direction)[moved]
        active = active[moved]
        change = new_gradient[moved] - gradient[active]
        scale[active] = _updated(scale[active], step, change)
        gained = value[active] - new_value[moved]
        theta[active] += step
        value[active], gradient[active] = new_value[moved], new_gradient[moved]
        stalled = gained <= gain * np.abs(value[active])
        active = active[~stalled]
    return Minima(theta, value)


def _shortened(direction: Array, slope: Array) -> tuple[Array, Array]:
    factor = np.minimum(1.0, LONGEST_MOVE / np.maximum(np.abs(direction).max(axis=1), 1e-300))
    return direction * factor[:, None], slope * factor


def _line_search(
    objective: Objective, theta: Array, value: Array, direction: Array, slope: Array, rows: Rows
) -> tuple[Array, Array, Array]:
    """Lengths [K] that meet the weak Wolfe conditions by bisection, 0 where none was found; values, gradients."""
    count = len(theta)
    low, high, trial = np.zeros(count), np.full(count, np.inf), np.ones(count)
    best = np.zeros(count)
    best_value, best_gradient = value.copy(), np.zeros_like(theta)
    open_ = np.arange(count)
    for _ in range(MAX_TRIALS):
        with np.errstate(all="ignore"):
            tried, its_gradient = objective(theta[open_] + trial[open_, None] * direction[open_], rows[open_])
        finite = np.isfinite(tried) & np.isfinite(its_gradient).all(axis=1)
        enough = finite & (tried <= value[open_] + SUFFICIENT * trial[open_] * slope[open_])
        along = np.einsum("ki,ki->k", np.where(finite[:, None], its_gradient, 0.0), direction[open_])
        flat = along >= CURVATURE * slope[open_]
        better = enough & (tried < best_value[open_])
        taken = open_[better]
        best[taken], best_value[taken], best_gradient[taken] = trial[taken], tried[better], its_gradient[better]
        high[open_[~enough]] = trial[open_[~enough]]
        low[open_[enough & ~flat]] = trial[open_[enough & ~flat]]
        open_ = open_[~(enough & flat)]
        if not len(open_):
            break
        wide = np.isinf(high[open_])
        trial[open_] = np.where(wide, 2 * low[open_], (low[open_] + np.where(wide, 0, high[open_])) / 2)
    return best, best_value, best_gradient


def _updated(scale: Array, step: Array, change: Array) -> Array:
    """The BFGS update of the inverse Hessians [K, P, P]; left alone where curvature is not positive."""
    curvature = np.einsum("ki,ki->k", step, change)
    size = np.linalg.norm(step, axis=1) * np.linalg.norm(change, axis=1)
    good = curvature > 1e-12 * size
    rho = np.where(good, 1.0 / np.where(good, curvature, 1.0), 0.0)
    by_change = np.einsum("kij,kj->ki", scale, change)
    stretch = np.einsum("ki,ki->k", change, by_change)
    outer = step[:, :, None] * step[:, None, :]
    mixed = by_change[:, :, None] * step[:, None, :]
    new = (
        scale
        + (rho + rho**2 * stretch)[:, None, None] * outer
        - rho[:, None, None] * (mixed + mixed.transpose(0, 2, 1))
    )
    return np.where(good[:, None, None], new, scale)


def levenberg_marquardt(loss: Loss, start: Array, rows: Rows, steps: int) -> Minima:
    """Search from every row of ``start`` [S, P] under the weightings ``rows`` [S], at most ``steps`` steps.

    The steps are those of weighted least squares with Huber's influence as weights. A search whose value is not
    finite at its start stays there.
    """
    theta = start.copy()
    value, pull, curvature = _state(loss, theta, rows)
    size = _size(curvature)
    damping = np.full(len(theta), START)
    idle = np.zeros(len(theta), dtype=int)
    active = np.flatnonzero(np.isfinite(value))
    for _ in range(steps):
        if not len(active):
            break
        move = _step(curvature[active], pull[active], damping[active], size[active])
        tried = theta[active] + move
        new_value, new_pull, new_curvature = _state(loss, tried, rows[active])
        better = new_value < value[active]
        gain = np.where(better, value[active] - new_value, 0.0) / np.maximum(value[active], 1e-300)
        taken = active[better]
        theta[taken], value[taken] = tried[better], new_value[better]
        pull[taken], curvature[taken] = new_pull[better], new_curvature[better]
        size[taken] = np.maximum(size[taken], _size(new_curvature[better]))
        damping[active] = np.maximum(damping[active] * np.where(better, EASE, TIGHTEN), SOFTEST)
        idle[active] = np.where(gain < LEAST_GAIN, idle[active] + 1, 0)
        active = active[(idle[active] < PATIENCE) & (damping[active] < MOST)]
    return Minima(theta, value)


def _state(loss: Loss, theta: Array, rows: Rows) -> tuple[Array, Array, Array]:
    """Value [S], negative gradient [S, P] and curvature [S, P, P]; an infinite value where any is not finite."""
    with np.errstate(all="ignore"):
        value, gradient, curvature = loss.second_order(theta, rows)
    finite = np.isfinite(value) & np.isfinite(gradient).all(axis=1) & np.isfinite(curvature).all(axis=(1, 2))
    return np.where(finite, value, np.inf), -gradient, curvature


def _size(curvature: Array) -> Array:
    """What each coordinate [S, P] is scaled by: the root of its curvature."""
    with np.errstate(invalid="ignore"):
        root: Array = np.sqrt(np.maximum(np.einsum("kpp->kp", curvature), LEAST))
    return root


def _step(curvature: Array, pull: Array, damping: Array, size: Array) -> Array:
    """The damped steps [S, P], shortened where they are too long.

    ``size`` is the largest that each coordinate had on the way: a coordinate that has ceased to matter would
    otherwise run away (Moré 1978).
    """
    scaled = curvature / (size[:, :, None] * size[:, None, :])
    move = np.linalg.solve(scaled + damping[:, None, None] * np.eye(pull.shape[1]), (pull / size)[..., None])[..., 0]
    move = move / size
    longest = np.abs(move).max(axis=1, keepdims=True)
    shortened: Array = move * np.minimum(1.0, LONGEST_STEP / np.maximum(longest, 1e-300))
    return shortened
