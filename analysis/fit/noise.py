"""The noise of a fit: how points scatter about the law, drawn noise for few points, and the noise level that an F
statistic needs.

Resampling a handful of points makes intervals that are too narrow. Here noise is drawn instead, of a size that the
residuals allow, and the law is fitted again to the points moved by it. For a law that is linear in its coordinates,
such as a power law in logarithms, the result is Student's t interval exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from analysis.fit.loss import Loss, damped_inverse, vanished
from analysis.fit.student import NoFit
from analysis.laws.law import Array

FEW_INSIDE = 5
"""Fewer residuals near 0, beyond those that the parameters take, do not show how steep the Huber loss is."""
FEWEST_CLUSTERS, MOST_LEVERAGE = 20, 0.9
"""Of fewer clusters the variance comes out too small (of 10, intervals miss the truth too often); a row's leverage
is counted up to this."""
NOISELESS = 1e-13
"""Mean residuals of this share are rounding."""
TREND = 1.5
"""How much the log of the noise may change over the range of the points, as a standard deviation: enough for noise that
grows fivefold, and no more than a handful of points can do with."""
TRENDS = np.linspace(-3.5, 3.5, 57) * TREND
FEW_SPARE = 2
"""With fewer degrees of freedom a change of the noise along the variables cannot show: none is allowed for among the
points, and what is thought possible before seeing them for a further row."""
BISECTIONS = 200


def noise(loss: Loss, theta: Array, index: int, clusters: NDArray[np.generic]) -> float | NoFit:
    """The scale that makes twice the rise of the loss an F statistic, from the residuals at ``theta`` [P].

    For least squares it is the residual variance (of cluster means where the rows of a cluster share their place),
    which gives the exact F test. Otherwise it gives the profile the curvature at its minimum that the robust (sandwich)
    variance of the parameter implies, with clusters [n] kept together (Chandler and Bate 2007, Biometrika 94:167). It
    is never less than ``mean psi^2 / mean psi'``, with psi the slope of the loss of one residual, which holds for
    equally distributed residuals (Schrader and Hettmansperger 1980, Biometrika 67:93) and does not need the other
    parameters to be determined.
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
    """An estimate of the second derivative [n] of each residual's loss; its sum is lower than n by about P.

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


@dataclass(frozen=True)
class Scatter:
    """Noise of each unit g (the rows of one place, or one row): normal with deviation ``size exp(trend u_g) / w_g``.

    ``u`` is the mean of the logs of the variables, each over its range: of one variable it has a range of 1. Each trend
    [T] has its ``share`` (restricted likelihood times a normal prior), and a sum of squares ``rest`` from which the
    size is ``sqrt(rest / chi2)`` with ``spare`` degrees of freedom.
    """

    trends: Array
    share: Array
    rest: Array
    spare: int
    deviations: Array
    """exp(trend u_g) / w_g [T, G]."""
    response: Array
    """The change [P, G] of each coordinate per noise of a unit, to first order."""
    member: NDArray[np.intp]
    """The unit [n] of each row."""
    centre: Array
    slope: Array
    """u = slope . (log columns - centre)."""
    further: float
    """Deviation of a further row over that of a unit."""

    def along(self, columns: Array) -> Array:
        """u [m] at ``columns`` [V, m]."""
        return np.asarray(self.slope @ (_logs(columns) - self.centre[:, None]))

    def draw(self, number: int, rng: np.random.Generator) -> Noise:
        """Noise of ``number`` data sets like this one."""
        which = rng.choice(len(self.trends), size=number, p=self.share)
        size = np.sqrt(self.rest[which] / rng.chisquare(self.spare, number))
        units = size[:, None] * self.deviations[which] * rng.standard_normal((number, self.deviations.shape[1]))
        return Noise(self, size, self.trends[which], units)

    def quantile(self, deviations: Array, level: float) -> float:
        """The quantile of size times a normal variable whose deviation at each trend is given [T]: a mixture of t."""
        scale = deviations * np.sqrt(self.rest / self.spare)
        bound = float(scale.max() * abs(special.stdtrit(self.spare, level)))
        low, high = -bound, bound
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            below = float(self.share @ special.stdtr(self.spare, middle / scale))
            low, high = (middle, high) if below < level else (low, middle)
            if high - low <= 1e-12 * bound:
                break
        return (low + high) / 2


@dataclass(frozen=True)
class Noise:
    """Drawn noise: ``units`` [B, G], made with ``size`` [B] and ``trend`` [B]."""

    scatter: Scatter
    size: Array
    trend: Array
    units: Array

    @property
    def shifts(self) -> Array:
        """What is added to the rows [B, n]."""
        return self.units[:, self.scatter.member]

    def kept(self, chosen: NDArray[np.bool_]) -> Noise:
        """The draws that are ``chosen`` [B]."""
        return Noise(self.scatter, self.size[chosen], self.trend[chosen], self.units[chosen])

    def first_order(self, gradient: Array) -> Array:
        """Changes [B] of what has this ``gradient`` [P] by the coordinates, to first order."""
        return self.units @ (gradient @ self.scatter.response)

    def ends(self, draws: Array, gradient: Array, confidence: float) -> tuple[float, float]:
        """Both ends of the interval of what was drawn as ``draws`` [B] and has this ``gradient`` [P].

        The distribution to first order is known, so its exact quantiles are mapped from its draws to the draws in full.
        For a linear quantity the interval is exact.
        """
        about = self.scatter
        deviations = np.sqrt((((gradient @ about.response) * about.deviations) ** 2).sum(axis=1))
        return self._mapped(draws, self.first_order(gradient), deviations, confidence)

    def further_ends(
        self, draws: Array, gradient: Array, place: Array, confidence: float, rng: np.random.Generator
    ) -> tuple[float, float]:
        """The same for one further row at ``place`` [V, 1], whose own noise comes on top of ``draws`` [B]."""
        about, u = self.scatter, float(self.scatter.along(place)[0])
        noise = about.further * self.size * np.exp(self.trend * u) * rng.standard_normal(len(draws))
        law = (((gradient @ about.response) * about.deviations) ** 2).sum(axis=1)
        deviations = np.sqrt(law + (about.further * np.exp(about.trends * u)) ** 2)
        return self._mapped(draws + noise, self.first_order(gradient) + noise, deviations, confidence)

    def _mapped(self, draws: Array, linear: Array, deviations: Array, confidence: float) -> tuple[float, float]:
        levels = (1 - confidence) / 2, (1 + confidence) / 2
        if not (np.isfinite(deviations).all() and (deviations > 0).all()) or not np.ptp(linear) > 0:
            low, high = np.quantile(draws, levels, method="inverted_cdf")
            return float(low), float(high)
        exact = np.array([self.scatter.quantile(deviations, level) for level in levels])
        linear, draws = np.sort(linear), np.sort(draws)
        if not np.isfinite(draws).all():  # nothing lies between a number and one that has run away
            draws = draws[np.searchsorted(linear, exact).clip(max=len(draws) - 1)]
            return float(draws[0]), float(draws[1])
        beyond = exact - np.clip(exact, linear[0], linear[-1])
        low, high = np.interp(exact, linear, draws) + beyond
        return float(low), float(high)


def scatter(loss: Loss, theta: Array, units: NDArray[np.generic]) -> Scatter | None:
    """The scatter of ``units`` [n] about the law at ``theta`` [P]; None where no degree of freedom is left for it.

    A unit is all rows that share what they depart from the law by, such as the seeds of one size.
    """
    names, member = np.unique(units, return_inverse=True)
    count = len(names)
    residual, jacobian = (part[0] for part in loss.residuals(theta[None]))
    weights = loss.weights[0]
    spare = count - len(theta)
    if spare < 1:
        return None

    def mean(values: Array) -> Array:
        return np.bincount(member, weights * values) / np.bincount(member, weights)

    rows = np.bincount(member)
    heavy = np.sqrt(np.bincount(member, weights) / rows)  # weights are 1 / variance
    shown = ~vanished(loss, theta)
    design = np.stack([mean(column) for column in jacobian.T], axis=1) * shown
    centres = np.stack([mean(values) for values in _logs(loss.columns)])
    centre, slope = _direction(centres)
    u = slope @ (centres - centre[:, None])
    trends = TRENDS if np.ptp(u) > 0 else np.zeros(1)
    deviations = np.exp(trends[:, None] * u * (spare >= FEW_SPARE)) / heavy
    left = mean(residual)
    share, rest = _likelihood(left, design[:, shown], deviations, spare)
    share = np.exp(share - 0.5 * (trends / TREND) ** 2 - (share - 0.5 * (trends / TREND) ** 2).max())
    total = np.sqrt(np.bincount(member, weights))[:, None]
    response = np.asarray(np.linalg.pinv(design * total) * total.T, dtype=float)
    within = weights * (residual - left[member]) ** 2
    within_variance = float(within.sum()) / max(len(residual) - count, 1)
    middle = float(np.average(rest, weights=share)) / spare
    further = np.sqrt(1 + (within_variance / middle if middle > 0 else 0.0) * (1 - float((1 / rows).mean())))
    return Scatter(trends, share / share.sum(), rest, spare, deviations, response, member, centre, slope, further)


def multiplied(loss: Loss, theta: Array, units: NDArray[np.generic], number: int, seed: int) -> Array | None:
    """Noise [B, n] that is the residuals of each unit times one normal number: a wild bootstrap of clusters.

    It assumes nothing about the dependence within a unit, and two laws that are fitted to the same rows get the same
    noise. Residuals are those of each unit about the law fitted without it (CR3, MacKinnon and White
    1985), and Student's t takes the place of the normal. None where no degree of freedom is left.
    """
    names, member = np.unique(units, return_inverse=True)
    spare = min(len(member) - len(theta), len(names) - 1)
    if spare < 1:
        return None
    residual, jacobian = (part[0] for part in loss.residuals(theta[None]))
    root = np.sqrt(loss.weights[0])
    design = root[:, None] * jacobian
    hat = design @ np.linalg.pinv(design)
    left = root * residual - hat @ (root * residual)
    for unit in range(len(names)):
        rows = np.flatnonzero(member == unit)
        left[rows] = np.linalg.pinv(np.eye(len(rows)) - hat[np.ix_(rows, rows)], rcond=1e-6) @ left[rows]
    rng = np.random.default_rng(seed)
    size = np.sqrt(spare / rng.chisquare(spare, (number, 1)))
    return (size * rng.standard_normal((number, len(names))))[:, member] * (left / root)


def _likelihood(residual: Array, design: Array, deviations: Array, spare: int) -> tuple[Array, Array]:
    """Restricted log likelihood [T] of ``deviations`` [T, G] at the best size, and sums of squares [T]."""
    scaled, scaled_residual = design[None] / deviations[..., None], residual / deviations
    q, r = np.linalg.qr(scaled)
    rest = scaled_residual - np.einsum("tgp,tp->tg", q, np.einsum("tgp,tg->tp", q, scaled_residual))
    squares = np.maximum((rest**2).sum(axis=1), 1e-300)
    determinant = np.log(np.maximum(np.abs(np.einsum("tpp->tp", r)), 1e-300)).sum(axis=1)
    return -np.log(deviations).sum(axis=1) - determinant - spare / 2 * np.log(squares), squares


def _direction(logs: Array) -> tuple[Array, Array]:
    """Centre and slope [V] of u from the logs [V, G] of the variables: u rises by one where all go over their range."""
    centre, reach = logs.mean(axis=1), np.ptp(logs, axis=1)
    slope = 1 / np.where(reach > 0, reach, np.inf)
    return centre, slope / max(int((reach > 0).sum()), 1)


def _logs(columns: Array) -> Array:
    return np.log(np.maximum(np.abs(columns), 1e-300))
