"""Profile intervals: how far one parameter can move while all others are refitted.

An interval from a profile follows the true shape of the loss. Where the data do not determine a parameter, the profile
never rises and that end of the interval is open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy import special
from scipy.optimize import brentq

from analysis.fit.estimate import Fit
from analysis.fit.loss import Loss, damped_inverse, effect, with_effect
from analysis.fit.minimise import Rows, bfgs
from analysis.fit.noise import degrees, noise
from analysis.fit.student import NoFit
from analysis.laws.law import Array, Law

FIRST_STEP, GROWTH, MOST_STEPS = 0.2, 1.15, 100
"""The first step outwards as a share of the expected half width, what each next one is longer, and how many at most."""
BEYOND = 1.5
"""The curve goes on until it is this many times as high as the interval needs."""
FURTHEST_LOG, FURTHEST = 25.0, 20.0
"""How far a positive parameter may move in logarithms (a factor of 7e10), any other in its size: its own, the spread of
the law's starts, or what changes some value by a factor of e, whichever is greatest."""
NO_EFFECT = 1e-6
"""A positive parameter has reached its end where a change of it changes no value by more than this fraction of it."""
FAINT = 1e-3
"""A term with less effect than this is invisible to a search."""
RUNAWAY = 12.0
"""A positive parameter further than this from all starts, in logarithms, has diverged along a ridge."""
SETTLING, HIGHEST = 4, 1e9
"""Rounds of handing solutions to neighbours, and the criterion where the loss is not a number."""
TOLERANCE, GAIN = 1e-3, 1e-9
"""Slope of the criterion, and share of the summed loss gained in a step, at which a search ends."""


@dataclass(frozen=True)
class Profile:
    """The profile of one parameter: the F statistic ``criterion`` [K] at rising ``values`` [K].

    The interval holds the values where it is at most ``limit``. An end is named in ``open_ends`` (low, high) where the
    criterion never passes the limit: it is None then, or where the parameter ends, at 0 or at a bound asked for.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    open_ends: tuple[str, ...]
    bounded_ends: tuple[str, ...]
    """Those of the open ends that are a requested bound."""
    confidence: float
    limit: float
    values: Array
    criterion: Array


@np.errstate(all="ignore")  # where parameters run away, values leave the range of numbers: such a step is not taken
def profile(fit: Fit, name: str) -> Profile | NoFit:
    """The profile of the parameter called ``name`` and its interval, or why there is none.

    The criterion of least squares is ``F = (S(value) - S) (n - P) / S`` against the quantile of F with 1 and n - P
    degrees of freedom (Bates and Watts 1988, Nonlinear Regression Analysis, ch. 6); weights count as 1 / variance. A
    Huber loss and clusters have their own measure of noise, see there; G clusters leave G - 1 degrees of freedom.
    """
    index = fit.law.names.index(name)
    law = fit.law.holding(index)
    loss, theta = replace(fit.loss, law=law), law.from_table_units(fit.law.in_table_units(fit.theta))
    unit = noise(loss, theta, index, fit.units)
    if isinstance(unit, NoFit):
        return unit
    spare = degrees(loss, fit.units)
    limit = float(special.fdtri(1, spare, fit.options.confidence))
    search = _Search(loss, index, unit, law.starts(loss.columns, loss.y))
    centre = search.centre(theta)
    step, furthest = _scale(search, centre, limit)
    down = _outwards(search, centre, -step, furthest, limit)
    up = _outwards(search, centre, step, furthest, limit)
    walk = _settled(search, np.concatenate([down[::-1], centre[None], up]))
    height = search.height(walk)
    height = height - height.min()
    start = int(height.argmin())
    low = _end(search, walk[: start + 1][::-1], height[: start + 1][::-1], limit)
    high = _end(search, walk[start:], height[start:], limit)
    return Profile(
        name=name,
        value=fit.parameters[name],
        low=_end_in_reach(law, index, low, law.reach(index)[0]),
        high=_end_in_reach(law, index, high, law.reach(index)[1]),
        open_ends=tuple(side for side, end in (("low", low), ("high", high)) if end is None),
        bounded_ends=tuple(
            side
            for side, end, bound in zip(("low", "high"), (low, high), law.parameters[index].bounds, strict=True)
            if end is None and math.isfinite(bound)
        ),
        confidence=fit.options.confidence,
        limit=limit,
        values=law.natural(walk)[:, index],
        criterion=height,
    )


@dataclass(frozen=True)
class _Search:
    """Minimises over all other parameters with the one at ``index`` held; heights are in units of ``noise`` / 2."""

    loss: Loss
    index: int
    noise: float
    starts: Array
    """The law's own starts [S, P], at which every term has an effect."""

    def height(self, theta: Array) -> Array:
        """Twice the summed loss [K] of ``theta`` [K, P] over the noise: differences of it are F statistics."""
        value, _ = self.loss(theta, np.zeros(len(theta), dtype=np.intp))
        return np.where(np.isfinite(value), value * self._unit, HIGHEST)

    @property
    def _unit(self) -> float:
        return 2 * self.loss.scale / self.noise

    def curvature(self, theta: Array) -> Array:
        """Gauss-Newton curvature [K, P, P] of the height at ``theta`` [K, P]."""
        return self.loss.curvature(theta, np.zeros(len(theta), dtype=np.intp)) * self._unit

    def best(self, start: Array) -> Array:
        """``start`` [K, P] with all but the held parameter moved to where the loss is least."""
        held = start[:, self.index]

        def objective(free: Array, rows: Rows) -> tuple[Array, Array]:
            value, gradient = self.loss(np.insert(free, self.index, held[rows], axis=1), np.zeros_like(rows))
            return value * self._unit, np.delete(gradient, self.index, axis=1) * self._unit

        curvature = np.delete(np.delete(self.curvature(start), self.index, axis=1), self.index, axis=2)
        free = np.delete(start, self.index, axis=1)
        ended = bfgs(objective, free, np.arange(len(start)), damped_inverse(curvature), TOLERANCE, GAIN)
        return np.insert(ended.theta, self.index, held, axis=1)

    def centre(self, theta: Array) -> Array:
        """The start of the walk [P]: ``theta`` [P], unless its held value has diverged or its term has vanished."""
        start = theta.copy()
        if self.loss.law.parameters[self.index].ends:
            held_starts = self.starts[:, self.index]
            start[self.index] = np.clip(theta[self.index], held_starts.min() - RUNAWAY, held_starts.max() + RUNAWAY)
            start = with_effect(self.loss, self.starts, start[None], NO_EFFECT, [self.index])[0]
        if start[self.index] == theta[self.index]:
            return theta
        starts = np.concatenate([start[None], self.starts])
        starts[:, self.index] = start[self.index]
        return self.best_of(starts)

    def best_of(self, starts: Array) -> Array:
        """The best end [P] from several ``starts`` [K, P] that hold the same value.

        A term that has vanished pulls at nothing, so each search also starts with such terms brought back.
        """
        others = [i for i, parameter in enumerate(self.loss.law.parameters) if parameter.ends and i != self.index]
        back = with_effect(self.loss, self.starts, starts, FAINT, others)
        ends = self.best(starts if np.array_equal(back, starts) else np.concatenate([starts, back]))
        return np.asarray(ends[self.height(ends).argmin()])


def _scale(search: _Search, theta: Array, limit: float) -> tuple[float, float]:
    """The first step outwards and the furthest distance, from the half width that the curvature implies."""
    positive = search.loss.law.parameters[search.index].positive
    distance = abs(float(theta[search.index]))
    by_effect = 1 / max(float(effect(search.loss, theta[None])[0, search.index]), FAINT)
    size = 1.0 if positive else max(distance, float(search.starts[:, search.index].std()), by_effect)
    variance = float(damped_inverse(search.curvature(theta[None]))[0, search.index, search.index])
    half = min(math.sqrt(limit * max(variance, 0.0)), size)
    return FIRST_STEP * half, size * (FURTHEST_LOG if positive else FURTHEST)


def _outwards(search: _Search, theta: Array, step: float, furthest: float, limit: float) -> Array:
    """Solutions [K, P] ever further from ``theta`` [P], until the criterion is passed or the parameter ends.

    Each search starts from the last solution and from the line through the last two.
    """
    held, least = search.index, float(search.height(theta[None])[0])
    before, last, walk = theta, theta, list[Array]()
    ends = search.loss.law.parameters[held].ends
    for _ in range(MOST_STEPS):
        stay = last.copy()
        stay[held] += step
        moved = last[held] - before[held]
        onward = last + (last - before) * (step / moved) if moved else stay
        onward[held] = stay[held]
        before, last = last, search.best_of(np.stack([stay, onward]))
        walk.append(last)
        height = float(search.height(last[None])[0]) - least
        if not height < BEYOND * limit or abs(last[held] - theta[held]) > furthest:
            break
        if ends and effect(search.loss, last[None])[0, held] < NO_EFFECT:
            break
        step *= GROWTH
    return np.array(walk)


def _settled(search: _Search, walk: Array) -> Array:
    """The solutions ``walk`` [K, P] once more, each from its neighbours', until none gains by it."""
    for _ in range(SETTLING):
        height = search.height(walk)
        gained = False
        for shifted in (np.concatenate([walk[:1], walk[:-1]]), np.concatenate([walk[1:], walk[-1:]])):
            start = shifted.copy()
            start[:, search.index] = walk[:, search.index]
            ends = search.best(start)
            better = search.height(ends) < height - 1e-3
            walk = np.where(better[:, None], ends, walk)
            gained = gained or bool(better.any())
        if not gained:
            break
    return walk


def _end(search: _Search, walk: Array, height: Array, limit: float) -> float | None:
    """Where the criterion crosses ``limit`` for the last time on the way out along ``walk`` [K, P]; None if never.

    A profile may come down again behind a hill: what lies behind also fits, so the interval holds the hill too.
    """
    walk, height = walk.copy(), height.copy()
    least = float(search.height(walk[:1])[0] - height[0])

    def best_at(value: float, nearby: Array) -> tuple[Array, float]:
        starts = nearby.copy()
        starts[:, search.index] = value
        best = search.best_of(starts)
        return best, float(search.height(best[None])[0]) - least

    while True:
        inside = int(np.flatnonzero(height <= limit)[-1])
        if inside == len(walk) - 1:
            return None
        nearby = walk[inside : inside + 2]
        first, second = (float(point[search.index]) for point in nearby)
        walk[inside + 1], height[inside + 1] = best_at(second, nearby)
        if height[inside + 1] > limit:
            break
    known = {first: height[inside] - limit, second: height[inside + 1] - limit}

    def above(value: float) -> float:
        return float(known[value]) if value in known else best_at(value, nearby)[1] - limit

    return float(brentq(above, first, second, xtol=1e-6 * abs(second - first)))


def _end_in_reach(law: Law, index: int, coordinate: float | None, last: float) -> float | None:
    """The parameter at a ``coordinate``; without one the ``last`` value that it can have, None if that is infinite."""
    if coordinate is None:
        return last if math.isfinite(last) else None
    theta = np.zeros(len(law.parameters))
    theta[index] = coordinate
    return float(law.tell(theta)[index])
