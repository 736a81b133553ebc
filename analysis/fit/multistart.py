"""Multistart: the best parameters from several starts, and how far the starts agree."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from analysis.fit.loss import SQUARED, Loss
from analysis.fit.minimise import bfgs, levenberg_marquardt
from analysis.laws.law import Array
from analysis.laws.restrictions import beyond_bounds

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
class Solution:
    """The best of several searches of one weighting: ``theta`` [P], its summed loss and scaled gradient.

    The gradient is as a share of the loss, where that is large: further it cannot be told from rounding.
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


def to_bounds(loss: Loss, found: Solution) -> Solution:
    """``found``, with every parameter at its bound that gains by it: a search only comes ever closer."""
    for start in beyond_bounds(loss.law, found.theta):
        ended = multistart(loss, start[None])
        if ended.loss <= found.loss:
            found = replace(ended, starts=found.starts, agreeing=found.agreeing)
    return found


def _flattened(loss: Loss, theta: Array) -> tuple[Array, Array]:
    """``theta`` [P] after the Gauss-Newton steps that make the gradient smaller, and that gradient [P].

    A search that compares losses ends where these differ by rounding, which the gradient may still tell apart.
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
    each = np.arange(len(loss.weights))
    rows = np.tile(each, len(starts))
    theta = np.repeat(starts, len(each), axis=0)
    if loss.delta == SQUARED:
        minima = levenberg_marquardt(loss, theta, rows, LEVENBERG_MARQUARDT_STEPS)
    else:
        minima = bfgs(loss, theta, rows, loss.inverse_hessian(theta, rows), tolerance=1e-6, gain=GAIN)
    values = np.where(np.isfinite(minima.value), minima.value, np.inf).reshape(len(starts), -1)
    best = values.argmin(axis=0) * len(each) + each
    return minima.theta[best], np.isfinite(values.min(axis=0)) & np.isfinite(minima.theta[best]).all(axis=1)
