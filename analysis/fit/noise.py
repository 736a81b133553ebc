"""How much the loss of a fit varies by chance: what turns its rise into a statistic that an F quantile judges."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from analysis.fit.loss import Loss, damped_inverse
from analysis.fit.student import NoFit
from analysis.laws.law import Array

FEW_INSIDE = 5
"""Fewer residuals near 0, beyond those that the parameters take, do not show how steep the Huber loss is."""
FEWEST_CLUSTERS, MOST_LEVERAGE = 20, 0.9
"""Of fewer clusters the variance comes out too small (of 10, intervals miss the truth too often); a row's leverage
is counted up to this."""
NOISELESS = 1e-13
"""Mean residuals of this share are rounding."""


def noise(loss: Loss, theta: Array, index: int, clusters: NDArray[np.generic]) -> float | NoFit:
    """What twice the rise of the loss is divided by to be an F statistic, from the residuals at ``theta`` [P].

    Of squares it is the residual variance, of the mean of each cluster where its rows share their place: the F test
    exactly. Otherwise it is what makes the
    profile as curved at its bottom as the robust (sandwich) variance of the parameter says, clusters [n] kept together
    (Chandler and Bate 2007, Biometrika 94:167). It is never less than ``mean psi^2 / mean psi'``, with psi the slope
    of the loss of one residual, which holds for equally distributed residuals (Schrader and Hettmansperger 1980,
    Biometrika 67:93) and does not need the other parameters to be determined.
    """
    residual, jacobian = (part[0] for part in loss.residuals(theta[None]))
    weights, n = loss.weights[0], len(residual)
    spare = n - len(theta)
    names, member = np.unique(clusters, return_inverse=True)
    if np.sqrt((residual**2).mean()) < NOISELESS:
        return NoFit("the law passes through every point, so there is no noise to judge by")
    if np.abs(residual).max() <= loss.delta and one_place_each(loss, clusters):
        means = np.bincount(member, weights * residual) ** 2 / np.bincount(member, weights)
        return float(means.sum()) / (len(names) - len(theta))
    if len(names) < min(n, FEWEST_CLUSTERS):
        return NoFit(f"{len(names)} clusters are too few to tell how much they vary; needs {FEWEST_CLUSTERS}")
    psi = np.clip(residual, -loss.delta, loss.delta)
    bend = _bend(loss, residual, len(theta))
    if isinstance(bend, NoFit):
        return bend
    alike = float((weights * psi**2).sum()) / spare / (float((weights * bend).sum()) / spare)
    inverse = damped_inverse(np.einsum("n,np,nq->pq", weights * bend, jacobian, jacobian)[None])[0]
    leverage = np.einsum("n,np,pq,nq->n", weights * bend, jacobian, inverse, jacobian)
    pull = (weights * psi / (1 - np.minimum(leverage, MOST_LEVERAGE)))[:, None] * jacobian
    sums = np.stack([np.bincount(member, weights=column) for column in pull.T])
    direction = inverse[index]
    sandwich = float(((direction @ sums) ** 2).sum()) / float(direction[index])
    return max(alike, sandwich)


def degrees(loss: Loss, clusters: NDArray[np.generic]) -> int:
    """Degrees of freedom of that noise."""
    count, parameters = len(np.unique(clusters)), len(loss.law.parameters)
    return count - parameters if one_place_each(loss, clusters) else min(len(loss.y) - parameters, count - 1)


def one_place_each(loss: Loss, clusters: NDArray[np.generic]) -> bool:
    """Whether all rows of each cluster [n] share all variables."""
    names, member = np.unique(clusters, return_inverse=True)
    return np.unique(np.concatenate([loss.columns, member[None]]), axis=1).shape[1] == len(names)


def _bend(loss: Loss, residual: Array, parameters: int) -> Array | NoFit:
    """The second derivative [n] of each residual's loss, as good as it can be known; its sum is short of P of n.

    It is 1 within delta and 0 beyond. Where delta is small it is read off a wider window, as a density at 0 is (Powell
    1991); the P residuals that parameters can always make small do not count.
    """
    n = len(residual)
    spare = n - parameters
    deviation = 1.4826 * float(np.median(np.abs(residual))) * math.sqrt(n / spare)
    window = max(loss.delta, deviation * n**-0.2)
    inside = np.abs(residual) <= window
    extra = int(inside.sum()) - parameters
    if loss.delta < window and extra < FEW_INSIDE:
        return NoFit(
            f"{n} rows are too few for the profile of a Huber loss whose delta {loss.delta:g} is below their scatter "
            f"({deviation:.2g}); --huber inf has one"
        )
    share = 1.0 if np.isinf(loss.delta) else loss.delta / window
    return np.asarray(inside * (share * max(extra, 1) / int(inside.sum())))
