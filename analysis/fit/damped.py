"""Many small least-squares problems at once: Levenberg and Marquardt's damped Gauss-Newton steps.

Where residuals are squared these need tens of steps, and BFGS hundreds.
"""

from __future__ import annotations

import numpy as np

from analysis.fit.loss import Loss
from analysis.fit.minimise import Minima, Rows
from analysis.laws.law import Array

START, EASE, TIGHTEN, MOST = 1e-2, 0.3, 4.0, 1e9
"""The damping at first, what it is multiplied by after a step that helped or did not, and where a search gives up."""
SOFTEST, LEAST = 1e-9, 1e-12
"""The smallest damping, and the smallest curvature that a coordinate is scaled by."""
LONGEST_MOVE = 2.0
"""Largest change of any internal coordinate in one step."""
GAIN, PATIENCE = 1e-5, 5
"""A search ends after this many steps in a row that gained less than this share."""


def solve(loss: Loss, start: Array, rows: Rows, steps: int) -> Minima:
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
        idle[active] = np.where(gain < GAIN, idle[active] + 1, 0)
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
    shortened: Array = move * np.minimum(1.0, LONGEST_MOVE / np.maximum(longest, 1e-300))
    return shortened
