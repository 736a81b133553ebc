"""How sure a fit is. Many rows or clusters are resampled; for few, noise is drawn (``noise.py``), and few clusters
that hold several places are left out one by one, too.
Diagnostics: did the search converge, do its starts agree, and do the data determine the parameters?"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analysis.fit.loss import SQUARED, Loss, effect, vanished, with_effect
from analysis.fit.minimise import Solution, search_resamples
from analysis.fit.noise import Noise, multiplied, one_place_each, scatter
from analysis.laws.law import Array
from analysis.laws.restrictions import at_bound

FEW_UNITS = 60
"""Up to this many rows or clusters are too few to resample: of 30, intervals of 95 % hold the truth in 90 %."""
MOST_DRAWS = 200
"""Draws of noise; few suffice, as quantiles are mapped from a known distribution."""
SHOWN = 0.1
"""The effect that a vanished term is given at the start of a search."""
DOUBLINGS = 100
"""How often a term that no start shows is doubled at most until it shows."""
MOST_LEFT_OUT = 500
"""Fits that each leave out one cluster; with more clusters each leaves out several."""
BATCH_NUMBERS = 300_000
"""Numbers in the largest array of one batch of searches: 2.4 MB stay in a core's cache."""
STEEP = 1e-4
"""Largest scaled gradient component at which a search counts as ended."""
STIFF = 1e8
"""Condition number of the scaled curvature from which on a direction counts as flat."""
SPLIT = 0.5
FEW_SIZES = 4
NARROW = 2.0
"""Over less than this factor of a variable any two forms look alike."""
FEWEST_SPARE, STRAIGHT = 2, 2
"""Distinct places beyond the number of parameters that intervals of a bent law need: with one their coverage is too
low. For a law of two parameters, which is nearly straight, one is enough."""


@dataclass(frozen=True)
class Resampling:
    """Fits of resampled points: ``theta`` [B', P] of those that could be fitted, their ``numbers`` [B'] among the
    ``asked`` resamples, ``jackknife`` [G, P] without one cluster each, and how many resamples ``failed``. Of few
    rows it is ``noise`` [B'] that was drawn. Of few clusters that hold several places there is the jackknife, too
    (``by_cluster``), NaN where the other clusters do not determine the law.

    The same seed, clusters and number draw the same points for every law, so draws of two laws can be paired by number.
    """

    theta: Array
    numbers: NDArray[np.intp]
    jackknife: Array
    asked: int
    failed: int
    noise: Noise | None = None
    by_cluster: bool = False


def no_resamples(parameters: int) -> Resampling:
    """Nothing to make intervals of a law of so many ``parameters`` from."""
    return Resampling(np.empty((0, parameters)), np.empty(0, dtype=np.intp), np.empty((0, parameters)), 0, 0)


def draw(
    loss: Loss, theta: Array, units: NDArray[np.generic], number: int, seed: int, paired: bool = False
) -> Resampling:
    """Refit ``number`` drawn data sets, starting from ``theta`` [P].

    ``units`` [n] names the rows that belong together. Many units are resampled; for few, noise is drawn, and also where
    a parameter is at a bound, since resamples would all end there. Where draws must be ``paired`` with those of another
    law, the noise is ``multiplied`` residuals. Few units that hold several places are also left out one by one.
    """
    stopped = bool(at_bound(loss.law, theta).any())
    if number == 0 or (len(np.unique(units)) > FEW_UNITS and not stopped):
        return resample(loss, theta, units, number, seed)
    number = min(number, MOST_DRAWS)
    none = no_resamples(len(theta))
    noise = None
    if paired:
        shifts = multiplied(loss, theta, units, number, seed)
    else:
        if not one_place_each(loss, units):
            none = replace(none, jackknife=_determined_without_each(loss, theta, units), by_cluster=True)
            units = places(loss.columns)
        about_law = scatter(loss, theta, units)
        noise = None if about_law is None else about_law.draw(number, np.random.default_rng(seed))
        shifts = None if noise is None else noise.shifts
    if shifts is None:
        return none
    # What an outlier does to a robust fit it has done already, and what pushes a fit to a bound would push all of them.
    if loss.delta < SQUARED or stopped:
        shifts = shifts - loss.residuals(theta[None])[0]
    fitted, good = _search(replace(loss, shifts=shifts), np.ones_like(shifts), theta)
    return replace(
        none,
        theta=fitted[good],
        numbers=np.flatnonzero(good),
        asked=number,
        failed=int((~good).sum()),
        noise=None if noise is None else noise.kept(good),
    )


def resample(loss: Loss, theta: Array, clusters: NDArray[np.generic], number: int, seed: int) -> Resampling:
    """Refit ``number`` resamples of the clusters [n] drawn with replacement, starting from ``theta`` [P].

    A resample is a row of weights that counts how often each point was drawn, so all are searched at once. One
    that holds fewer distinct points than parameters cannot be fitted and counts as failed. More than ``MOST_LEFT_OUT``
    clusters are left out of the jackknife in that many parts, which estimates the same acceleration.
    """
    size = len(theta)
    names, member = np.unique(clusters, return_inverse=True)
    if number == 0:
        return no_resamples(size)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=number)
    counts = drawn[:, member].astype(float)
    enough = (counts > 0).sum(axis=1) > size
    fitted, good = _search(loss, counts[enough], theta)
    parts = member if len(names) <= MOST_LEFT_OUT else rng.permutation(len(names))[member] % MOST_LEFT_OUT
    jackknife, _ = without_each(loss, theta, parts)
    fitted_all = np.isfinite(jackknife).all(axis=1)
    numbers = np.flatnonzero(enough)[good]
    return Resampling(fitted[good], numbers, jackknife[fitted_all], number, number - len(numbers))


def without_each(loss: Loss, theta: Array, member: NDArray[np.intp]) -> tuple[Array, Array]:
    """Fits [G, P] that leave out one of the G clusters each, and their weights [G, n]; NaN where one failed.

    ``member`` [n] numbers the cluster of each point; searches start from ``theta`` [P].
    """
    weights = np.where(member[None] == np.arange(member.max() + 1)[:, None], 0.0, 1.0)
    fitted, good = _search(loss, weights, theta)
    return np.where(good[:, None], fitted, np.nan), weights * loss.weights


def places(columns: Array) -> NDArray[np.intp]:
    """Numbers [n] that rows share which share all variables: such rows share their departure from the law."""
    return np.asarray(np.unique(columns, axis=1, return_inverse=True)[1].ravel() + 1)


def _determined_without_each(loss: Loss, theta: Array, units: NDArray[np.generic]) -> Array:
    """``without_each`` of the units [n], NaN also where the other units leave a direction of the law open.

    That is judged where the fit to them ended, and at the fit ``theta`` [P] to all rows with all terms of the law at
    work, those too that have vanished from it.
    """
    fitted, weights = without_each(loss, theta, np.unique(units, return_inverse=True)[1])
    full = _with_all_terms(loss, theta)
    good = [
        determined(loss, full, each) and determined(loss, own, each) for own, each in zip(fitted, weights, strict=True)
    ]
    return np.where(np.array(good)[:, None], fitted, np.nan)


def _with_all_terms(loss: Loss, theta: Array) -> Array:
    """``theta`` [P] with each vanished parameter moved to where the one of the starts has it that shows it most."""
    theta = theta.copy()
    starts = loss.law.starts(loss.columns, loss.y)
    for i in np.flatnonzero(vanished(loss, theta)):
        moved = np.repeat(theta[None], len(starts), axis=0)
        moved[:, i] = starts[:, i]
        theta = moved[effect(loss, moved)[:, i].argmax()]
        for _ in range(DOUBLINGS):  # a floor that no start has is raised until it shows
            if effect(loss, theta[None])[0, i] >= SHOWN or loss.law.parameters[i].bounded:
                break
            theta[i] += math.log(2.0)
    return theta


def determined(loss: Loss, theta: Array, weights: Array) -> bool:
    """Whether the rows with a weight [n] determine the law at ``theta`` [P]."""
    if not np.isfinite(theta).all():
        return False
    left = weights > 0
    rest = replace(loss, columns=loss.columns[:, left], y=loss.y[left], weights=weights[None, left])
    distinct = np.unique(rest.columns, axis=1).shape[1]
    return distinct >= len(theta) and condition_number(rest, theta) <= STIFF


def _search(loss: Loss, weights: Array, theta: Array) -> tuple[Array, NDArray[np.bool_]]:
    """``search_resamples`` in batches that fit into a processor's memory.

    A term that has vanished from the fit may be there in a draw, but pulls at nothing: searches start with it, too.
    """
    starts = theta[None]
    lost = np.flatnonzero(vanished(loss, theta))
    if len(lost):
        starts = np.stack(
            [theta, with_effect(loss, loss.law.starts(loss.columns, loss.y), theta[None], SHOWN, lost)[0]]
        )
    rows = max(1, BATCH_NUMBERS // (loss.columns.shape[1] * len(theta)))
    batches = [
        replace(
            loss,
            weights=weights[start : start + rows] * loss.weights,
            shifts=None if loss.shifts is None else loss.shifts[start : start + rows],
        )
        for start in range(0, len(weights), rows)
    ]
    if not batches:
        return np.empty((0, len(theta))), np.empty(0, dtype=bool)
    # numpy lets go of the interpreter in its loops, so threads share the work; batches do not depend on each other.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None) as pool:
        parts = list(pool.map(lambda batch: search_resamples(batch, starts), batches))
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


@dataclass(frozen=True)
class Diagnostics:
    """Diagnostics of a fit. ``warnings`` are sentences for the reader."""

    n: int
    left_out: int
    """Rows with a missing value, which the fit does not use."""
    parameters: int
    distinct: dict[str, int]
    """Number of different values of every variable."""
    spans: dict[str, float]
    """Largest over smallest value of every variable."""
    spare: int
    """Distinct places beyond the number of parameters."""
    loss: float
    """The summed loss at the end, unscaled."""
    gradient_norm: float
    """Largest component of its gradient, over the loss's scale or, if that is greater, the loss."""
    starts: int
    starts_agreeing: float
    """Share of the starts that ended at the same loss."""
    condition_number: float
    """Of the curvature with every parameter scaled to 1; infinite where a direction is flat."""
    at_bounds: tuple[str, ...]
    """Parameters whose term has vanished (the data only show that it is small) or that are at a requested bound.
    """
    stopped: dict[str, float]
    """Those of them that are at a requested bound, with the bound."""
    resamples: int
    resamples_failed: float
    """Share of the resamples that could not be fitted."""
    indispensable: int
    """Of few clusters that hold several places: those without which the others do not determine the law."""
    warnings: tuple[str, ...]

    @property
    def converged(self) -> bool:
        """Whether the gradient is nearly 0 where the search ended."""
        return self.gradient_norm <= STEEP

    @property
    def flat(self) -> bool:
        """Whether the data leave some combination of the parameters undetermined."""
        return self.condition_number > STIFF

    @property
    def bare(self) -> bool:
        """Whether a bent law has too few places for intervals."""
        return self.spare < FEWEST_SPARE and self.parameters > STRAIGHT


def diagnose(loss: Loss, solution: Solution, resampling: Resampling, left_out: int) -> Diagnostics:
    """Judge the fit ``solution``; ``left_out`` rows had a missing value."""
    distinct = {name: len(np.unique(values)) for name, values in zip(loss.law.variables, loss.columns, strict=True)}
    diagnostics = Diagnostics(
        n=loss.columns.shape[1],
        left_out=left_out,
        parameters=len(solution.theta),
        distinct=distinct,
        loss=solution.loss,
        gradient_norm=solution.gradient_norm,
        starts=solution.starts,
        starts_agreeing=solution.agreeing / solution.starts,
        condition_number=condition_number(loss, solution.theta),
        at_bounds=tuple(
            np.array(loss.law.names)[
                vanished(loss, solution.theta) | (at_bound(loss.law, solution.theta) != 0)
            ].tolist()
        ),
        stopped={
            parameter.name: parameter.bounds[int(side > 0)]
            for parameter, side in zip(loss.law.parameters, at_bound(loss.law, solution.theta), strict=True)
            if side
        },
        spans={
            name: float(values.max() / values.min()) if values.min() > 0 else float("inf")
            for name, values in zip(loss.law.variables, loss.columns, strict=True)
        },
        spare=np.unique(loss.columns, axis=1).shape[1] - len(solution.theta),
        resamples=resampling.asked,
        resamples_failed=resampling.failed / resampling.asked if resampling.asked else 0.0,
        indispensable=int(np.isnan(resampling.jackknife).any(axis=1).sum()) if resampling.by_cluster else 0,
        warnings=(),
    )
    return replace(diagnostics, warnings=tuple(_warnings(diagnostics)))


def condition_number(loss: Loss, theta: Array) -> float:
    """Condition number of the curvature of squares at ``theta`` [P], unit diagonal, without vanished terms."""
    _, jacobian = loss.residuals(theta[None])
    jacobian = jacobian[..., ~vanished(loss, theta)]
    curvature = jacobian[0].T @ (jacobian[0] * loss.weights[0][:, None])
    size = np.sqrt(np.diag(curvature))
    if not np.isfinite(curvature).all() or (size == 0).any():
        return float("inf")
    return float(np.linalg.cond(curvature / np.outer(size, size)))


def _warnings(fit: Diagnostics) -> list[str]:
    lines = []
    if not fit.converged:
        lines.append(f"the search did not end: gradient {fit.gradient_norm:.1e} is above {STEEP:g}")
    if fit.starts > 1 and fit.starts_agreeing < SPLIT:
        lines.append(f"only {fit.starts_agreeing:.0%} of {fit.starts} starts agree: there are several minima")
    if fit.flat:
        lines.append("the data leave a direction flat: parameters cannot be told apart, so no interval is stated")
    lines += [
        f"{name} has no effect: the data do not show this term" for name in fit.at_bounds if name not in fit.stopped
    ]
    lines += [
        f"{name} is at its bound {bound:g}: without it the fit would go beyond" for name, bound in fit.stopped.items()
    ]
    lines += [
        f"only {count} different values of {name}: too few to judge a form by"
        for name, count in fit.distinct.items()
        if count < FEW_SIZES
    ]
    lines += [
        f"{name} spans a factor of {span:.3g}: too little to judge a form by"
        for name, span in fit.spans.items()
        if span < NARROW
    ]
    if fit.bare:
        lines.append(
            f"{fit.parameters + fit.spare} distinct places for {fit.parameters} parameters: too few for an interval, "
            f"which takes {fit.parameters + FEWEST_SPARE}"
        )
    if fit.indispensable:
        lines.append(
            f"{fit.indispensable} of the clusters cannot be left out, as the others do not determine the law: no "
            "interval is stated"
        )
    if fit.resamples_failed > 0.05:
        lines.append(f"{fit.resamples_failed:.0%} of the resamples could not be fitted: intervals are too narrow")
    return lines
