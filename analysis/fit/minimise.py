"""Many small minimisations at once (BFGS, and Levenberg-Marquardt where residuals are squared), and multistart, which
keeps the best of several.

All work on S independent problems that share one vectorised objective. On squares Levenberg-Marquardt needs tens of
steps and BFGS hundreds; the Huber loss of a small delta has kinks, which BFGS passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from analysis.laws.law import Array
from analysis.laws.restrictions import beyond_bounds

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
AGREE = 1e-6
"""Starts agree when their losses differ by less than this share."""
ROUNDING = 1e-12
"""Share of a loss that is rounding: of two ends as low as this, the flatter one is better."""
LAST_STEPS = 4
POLISHED = 4
MAX_POLISHING = 5000
LEVENBERG_MARQUARDT_STEPS = 200
GAIN = 1e-9
"""Share of the loss whose gain in a step is not worth going on for a resample."""
COARSE_DELTAS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


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

    ``size`` is the largest scale that each coordinate had so far, since a coordinate without effect would otherwise
    diverge (Moré 1978).
    """
    scaled = curvature / (size[:, :, None] * size[:, None, :])
    move = np.linalg.solve(scaled + damping[:, None, None] * np.eye(pull.shape[1]), (pull / size)[..., None])[..., 0]
    move = move / size
    longest = np.abs(move).max(axis=1, keepdims=True)
    shortened: Array = move * np.minimum(1.0, LONGEST_STEP / np.maximum(longest, 1e-300))
    return shortened


@dataclass(frozen=True)
class Solution:
    """The best of several searches of one weighting: ``theta`` [P], its summed loss and scaled gradient.

    Where the loss is large the gradient is relative to it: smaller gradients are rounding.
    """

    theta: Array
    loss: float
    gradient_norm: float
    starts: int
    agreeing: int


def multistart(loss: Loss, starts: Array) -> Solution:
    """Minimise from every row of ``starts`` [S, P] under the first weighting.

    A small delta is approached through larger ones, each from where the one before ended: with delta near 0
    every point pulls equally hard and a distant start sees no curvature at all.
    """
    theta = starts
    rows = np.zeros(len(starts), dtype=np.intp)
    for delta in (*(coarse for coarse in COARSE_DELTAS if coarse > 2 * loss.delta), loss.delta):
        stage = replace(loss, delta=delta)
        minima = bfgs(stage, theta, rows, stage.inverse_hessian(theta, rows))
        theta = minima.theta
    # A second round forgets the curvature learned far away, which can hold a search on a plateau.
    minima = bfgs(loss, theta, rows, loss.inverse_hessian(theta, rows))
    theta, values = _polished(loss, minima.theta, np.where(np.isfinite(minima.value), minima.value, np.inf))
    best = int(values.argmin())
    # Losses below the noise of rounding count as equal: an exact law ends near 0 from every start.
    agreeing = int((values <= values[best] * (1 + AGREE) + 1e-12).sum())
    ended, gradient = _flattened(loss, theta[best])
    return Solution(
        ended,
        loss.total(float(values[best])),
        float(np.abs(gradient).max()) / max(1.0, float(values[best])),
        len(starts),
        agreeing,
    )


def to_bounds(loss: Loss, solution: Solution) -> Solution:
    """``solution``, with every parameter at its bound that gains by it: a search only comes ever closer."""
    for start in beyond_bounds(loss.law, solution.theta):
        ended = multistart(loss, start[None])
        if ended.loss <= solution.loss:
            solution = replace(ended, starts=solution.starts, agreeing=solution.agreeing)
    return solution


def _flattened(loss: Loss, theta: Array) -> tuple[Array, Array]:
    """``theta`` [P] after the Gauss-Newton steps that make the gradient smaller, and that gradient [P].

    A search that compares losses ends where they differ by rounding; the gradient is more precise there.
    """
    row = np.zeros(1, dtype=np.intp)
    value, gradient = loss(theta[None], row)
    for _ in range(LAST_STEPS):
        tried = theta - (loss.inverse_hessian(theta[None], row) @ gradient[0])[0]
        new_value, new_gradient = loss(tried[None], row)
        lower = np.abs(new_gradient).max() < np.abs(gradient).max()
        if not (lower and new_value[0] <= value[0] * (1 + ROUNDING)):
            break
        theta, gradient = tried, new_gradient
    return theta, gradient[0]


def _polished(loss: Loss, theta: Array, values: Array) -> tuple[Array, Array]:
    """``theta`` [S, P] and ``values`` [S] with the best few taken as far as Gauss-Newton steps can.

    Where a law passes through its points the loss vanishes, and with it what a quasi-Newton code can see of its
    slope: the last digits of the parameters need the residuals themselves.
    """
    theta, values = theta.copy(), values.copy()
    root = np.sqrt(loss.weights[0])
    for which in np.argsort(values)[:POLISHED]:
        if not np.isfinite(values[which]):
            continue
        with np.errstate(all="ignore"):
            end = least_squares(
                lambda point: np.nan_to_num(root * loss.residuals(point[None])[0][0], nan=1e6, posinf=1e6, neginf=-1e6),
                theta[which],
                jac=lambda point: np.nan_to_num(-root[:, None] * loss.residuals(point[None])[1][0]),
                x_scale="jac",
                **({"method": "lm"} if np.isinf(loss.delta) else {"loss": "huber", "f_scale": loss.delta}),
                ftol=1e-15,
                xtol=1e-15,
                gtol=1e-15,
                max_nfev=MAX_POLISHING,
            )
        value = float(loss(end.x[None], np.zeros(1, dtype=np.intp))[0][0])
        if value < values[which]:
            theta[which], values[which] = end.x, value
    return theta, values


def search_resamples(loss: Loss, starts: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Best theta [W, P] of every weighting from ``starts`` [S, P], and whether all of it is finite [W]."""
    weightings = np.arange(len(loss.weights))
    rows = np.tile(weightings, len(starts))
    theta = np.repeat(starts, len(weightings), axis=0)
    if np.isinf(loss.delta):
        minima = levenberg_marquardt(loss, theta, rows, LEVENBERG_MARQUARDT_STEPS)
    else:
        minima = bfgs(loss, theta, rows, loss.inverse_hessian(theta, rows), tolerance=1e-6, gain=GAIN)
    values = np.where(np.isfinite(minima.value), minima.value, np.inf).reshape(len(starts), -1)
    best = values.argmin(axis=0) * len(weightings) + weightings
    return minima.theta[best], np.isfinite(values.min(axis=0)) & np.isfinite(minima.theta[best]).all(axis=1)
