"""The learning rate along a curve, as known and as planned to its end; and the loss under it, as a posterior over a
grid of the laws that are published for it.

``L = L0 + A S^-alpha - B sum_k (rate_k-1 - rate_k) G_k``: S is the rate summed since the start, and every fall of the
rate gains more as time passes, ``G_k = 1 - (1 + C S_k / rate_k^gamma)^-beta`` with the sum S_k after it (multi-power
law, Luo et al. 2025, arXiv:2503.12811) or ``G_k = 1 - exp(-(x - x_k) / memory)`` (annealing law, Tissue et al. 2024,
arXiv:2408.11029). One curve does not distinguish the best fit from its neighbours, so all are weighted by their
likelihood.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.laws.law import Array
from nepa_scale.utils.errors import UserError, nearest

AT_PEAK = 0.99
"""The warm-up ends where the rate first reaches this share of its largest."""
AGREES = 0.02
"""How far, as a share of the peak, known rates may lie from the schedule that is stated."""
FALLS: dict[str, Callable[[Array], Array]] = {
    "constant": np.ones_like,
    "cosine": lambda done: (1 + np.cos(np.pi * done)) / 2,
    "poly": lambda done: 1 - done,
    "wsd": lambda done: 1 - np.sqrt(done),
}
"""What is left of the peak rate once a part of the fall is done, by the names that a training has for them."""
FEWEST_FALLING = 2
ALPHA = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.3, 1.7, 2.2)
BETA, GAMMA, C = (0.25, 0.5, 1.0), (0.4, 0.65), (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
MEMORY = (0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3)
"""The grid. C is in units of the peak rate and the total sum of rates, memory in units of all x after the peak."""
WARM_UP = (0.25, 0.5, 1.0)
EARLIER = (0.03, 0.1, 0.3)
"""What S is at the peak: shares of what the rate summed to until then, or of the sum at the last point."""
RATIO, SPREAD, STEPS = 1.5, 1.2, 19
"""A fall of the rate to 0 is expected to gain 1.5 times what the loss falls per e-fold of S; log-normally, by 1.2."""
COUNTED = 25
"""Points count as at most so many: the law is not exact, and no number of points makes it so."""
COEFFICIENTS = 4
SMALL_RATE = 1e-3
LEAST_WEIGHT = 1e-4
MOST_KNOTS = 300


@dataclass(frozen=True)
class Schedule:
    """The learning ``rate`` [n] at rising ``x`` [n], on a straight line between."""

    x: Array
    rate: Array

    @property
    def peak(self) -> int:
        """Number of the first point that is past the warm-up."""
        return int(np.argmax(self.rate >= AT_PEAK * self.rate.max()))

    @property
    def sum_before_peak(self) -> float:
        """The rate summed over x until the peak: from 0 on a straight line to where the first point is a warm-up's."""
        first = self.rate[0] * self.x[0] / (1 if self.peak == 0 else 2)
        rate, x = self.rate[: self.peak + 1], self.x[: self.peak + 1]
        return float(first + ((rate[1:] + rate[:-1]) / 2 * np.diff(x)).sum())

    def fallen(self, x: float) -> float:
        """The share of the peak rate by which it has fallen at ``x``."""
        return 1 - float(np.interp(x, self.x, self.rate)) / float(self.rate[self.peak])


@dataclass(frozen=True)
class Planned:
    """A stated schedule: how the rate falls, and the x where the training ends."""

    fall: str
    end: float

    def continued(self, known: Schedule) -> Schedule:
        """``known`` and what follows it, to the end.

        A cosine or a straight line falls from the peak, wsd from where the known rates began to. Raises
        ``UserError`` where they do not follow what is stated.
        """
        last, peak = known.x[-1], known.rate.max()
        if self.end <= last:
            raise UserError(f"planned={self}: the rates are known to {last:.6g}; the end must lie beyond")
        start = self._start(known)
        places = np.unique(np.append(np.linspace(last, self.end, 200)[1:], max(start, np.nextafter(last, self.end))))

        def rate(x: Array) -> Array:
            fallen: Array = peak * FALLS[self.fall](np.clip((x - start) / (self.end - start), 0.0, 1.0))
            return fallen

        past = known.x >= known.x[known.peak]
        away = np.abs(rate(known.x[past]) - known.rate[past]).max() / peak
        if away > AGREES:
            raise UserError(f"planned={self}: the known rates lie up to {away:.0%} of their peak away from it")
        return Schedule(np.append(known.x, places), np.append(known.rate, rate(places)))

    def _start(self, known: Schedule) -> float:
        """Where the fall begins."""
        if self.fall != "wsd":
            return float(known.x[np.argmax(known.rate)])
        falling = np.flatnonzero(known.rate < AT_PEAK * known.rate.max())
        falling = falling[falling > known.peak]
        if len(falling) < FEWEST_FALLING:
            raise UserError(f"planned={self}: the known rates have not begun to fall; give rows with rates and no y")
        x, left = known.x[falling], known.rate[falling] / known.rate.max()
        done = (1 - left) ** 2  # a straight line from 0 at the start to 1 at the end
        start: float = np.median((x - done * self.end) / (1 - done))
        return start

    def __str__(self) -> str:
        return f"{self.fall}:{self.end:g}"


def read_planned(text: str) -> Planned:
    """Understand ``FALL:END``. Raises ``UserError``."""
    fall, _, end = text.partition(":")
    if fall not in FALLS:
        raise UserError(f"planned={text}: no such fall{nearest(fall, FALLS)} (there are: {', '.join(FALLS)})")
    try:
        value = float(end)
    except ValueError:
        value = float("nan")
    if not (np.isfinite(value) and value > 0):
        raise UserError(f"planned={text}: give FALL:END, END the x where the training ends, for example {fall}:1e9")
    return Planned(fall, value)


@dataclass(frozen=True)
class Features:
    """Of every point [n]: ``sums`` [n], the rate summed since the peak, and ``gains`` [K, n] of the falls so far."""

    sums: Array
    before: float
    """The rate summed until the peak."""
    gains: Array


@dataclass(frozen=True)
class Posterior:
    """The law's prediction at every point [n], its variance, and the relative variance of one point around it."""

    mean: Array
    variance: Array
    scatter: float
    freedom: int


def features(schedule: Schedule, x: Array) -> Features:
    """The sums and gains at ``x`` [n], all within the schedule and past its peak."""
    start = schedule.peak
    rate = schedule.rate[start:] / schedule.rate[start]
    place = schedule.x[start:]
    summed = np.concatenate([[0.0], np.cumsum((rate[1:] + rate[:-1]) / 2 * np.diff(place))])
    knots = np.unique(np.linspace(0, len(rate) - 1, min(len(rate), MOST_KNOTS)).round().astype(int))
    sums, falls = np.interp(x, place, summed), -np.diff(rate[knots])
    since = np.maximum(sums[:, None] - _middle(summed[knots]), 0.0) / summed[-1]
    away = np.maximum(x[:, None] - _middle(place[knots]), 0.0) / (place[-1] - place[0])
    low = np.maximum(_middle(rate[knots]), SMALL_RATE)
    gains = [
        *((1 - (1 + c * since / low**gamma) ** -beta) @ falls for beta, gamma, c in itertools.product(BETA, GAMMA, C)),
        *((1 - np.exp(-away / memory)) @ falls for memory in MEMORY),
    ]
    return Features(sums, schedule.sum_before_peak / schedule.rate[start], np.array(gains))


def _middle(values: Array) -> Array:
    return (values[1:] + values[:-1]) / 2


def posterior(known_features: Features, y: Array) -> Posterior | None:
    """The posterior at all points given the first, ``y`` [k] > 0: least squares of y / f, f being a first fit to them.

    alpha, S at the peak, the form of G and B over A are on a grid; L0 >= 0 and A > 0 follow from each. None where
    nothing on the grid falls with S and stays above 0 at all points.
    """
    known, number = slice(0, len(y)), len(y)
    last = known_features.sums[number - 1]
    shifts = np.array(
        [
            *(known_features.before * share for share in WARM_UP),
            *(known_features.before / 2 + last * share for share in EARLIER),
        ]
    )
    alpha, shift = (grid.ravel() for grid in np.meshgrid(ALPHA, shifts, indexing="ij"))
    power = ((known_features.sums + shift[:, None]) / (last + shift[:, None])) ** -alpha[:, None]
    steepness = alpha * last / (last + shift)
    ratio = RATIO * np.exp(np.linspace(-2.5 * SPREAD, 2.5 * SPREAD, STEPS))
    prior = -0.5 * (np.log(ratio / RATIO) / SPREAD) ** 2
    fall_over_scale = steepness[:, None] * ratio
    fit = y
    for _ in range(2):
        grid = _Grid(power[:, known], known_features.gains[:, known], fall_over_scale, y, 1 / fit**2)
        if not np.isfinite(grid.squares.min()):
            return None
        best = np.unravel_index(grid.squares.argmin(), grid.squares.shape)
        at = best[0], best[1], best[2]
        shape = power[at[0], known] - fall_over_scale[at[0], at[2]] * known_features.gains[at[1], known]
        fit = np.maximum(grid.floor[at] + grid.scale[at] * shape, 1e-3 * y.min())
    counted = min(number, COUNTED)
    log_weight = prior - counted / 2 * np.log(grid.squares / grid.squares.min())
    weight = np.where(log_weight > log_weight.max() + np.log(LEAST_WEIGHT), np.exp(log_weight - log_weight.max()), 0.0)
    shapes = _Shapes(power, known_features.gains, fall_over_scale)
    weight[~shapes.positive(weight > 0, grid.floor, grid.scale)] = 0.0
    if not weight.any():
        return None
    weight = weight / weight.sum()
    freedom = max(number - COEFFICIENTS, 1)
    scatter = float(grid.squares.min()) / freedom
    mean = shapes.mean(weight, grid.floor, grid.scale)
    spread = shapes.mean_square(weight, grid.floor, grid.scale) - mean**2
    variance = shapes.quadratic(*(weight * part for part in grid.variance)) * scatter * number / counted
    return Posterior(mean, variance + np.maximum(spread, 0.0), scatter, freedom)


@dataclass(frozen=True)
class _Shapes:
    """The forms ``power - part gain`` of the grid: ``power`` [G, n] and ``gain`` [K, n] at all points, ``part`` [G, R].

    There are too many of them to evaluate each; their sums over the grid need only those of its two factors.
    """

    power: Array
    gain: Array
    part: Array

    def positive(self, asked: NDArray[np.bool_], floor: Array, scale: Array) -> NDArray[np.bool_]:
        """Which of the forms ``asked`` for [G, K, R], times ``scale`` and plus ``floor``, are above 0 at all points."""
        part = self.part[:, None, :]
        least = self.power.min(axis=1)[:, None, None] - part * self.gain.max(axis=1)[None, :, None]
        known: NDArray[np.bool_] = floor + scale * least > 0
        which = np.nonzero(asked & ~known)
        rows, kinds, ratios = which
        shape = self.power[rows] - self.part[rows, ratios][:, None] * self.gain[kinds]
        known[which] = (floor[which][:, None] + scale[which][:, None] * shape > 0).all(axis=1)
        return known

    def quadratic(self, of_square: Array, of_form: Array, constant: Array) -> Array:
        """The sum over the grid of ``of_square form^2 + of_form form + constant`` [G, K, R] at every point [n]."""
        part = self.part[:, None, :]
        square = of_square.sum(axis=(1, 2)) @ self.power**2 + (of_square * part**2).sum(axis=(0, 2)) @ self.gain**2
        mixed = ((of_square * part).sum(axis=2).T @ self.power * self.gain).sum(axis=0)
        linear = of_form.sum(axis=(1, 2)) @ self.power - (of_form * part).sum(axis=(0, 2)) @ self.gain
        total: Array = square - 2 * mixed + linear + constant.sum()
        return total

    def mean(self, weight: Array, floor: Array, scale: Array) -> Array:
        """The mean of ``floor + scale form`` at every point [n]."""
        return self.quadratic(np.zeros_like(weight), weight * scale, weight * floor)

    def mean_square(self, weight: Array, floor: Array, scale: Array) -> Array:
        """The mean of its square."""
        return self.quadratic(weight * scale**2, 2 * weight * scale * floor, weight * floor**2)


class _Grid:
    """Weighted least squares of ``y`` [k] by ``floor + scale (power - part gain)``, one for each form of the law.

    For ``power`` [G, k], ``gain`` [K, k] and ``part`` [G, R]; ``floor``, ``scale`` and ``squares`` are [G, K, R].
    """

    def __init__(self, power: Array, gain: Array, part: Array, y: Array, weight: Array) -> None:
        self._ones = weight.sum()
        of_y = float(weight @ y)
        part = part[:, None, :]
        mixed, falls = (power * weight) @ gain.T, (gain * gain) @ weight
        square = ((power * power) @ weight)[:, None, None] - 2 * part * mixed[:, :, None]
        self._square = square + part**2 * falls[None, :, None]
        self._linear = (power @ weight)[:, None, None] - part * (gain @ weight)[None, :, None]
        with_y = (power @ (weight * y))[:, None, None] - part * (gain @ (weight * y))[None, :, None]
        self._determinant = np.maximum(self._square * self._ones - self._linear**2, 1e-12 * self._square * self._ones)
        scale = (with_y * self._ones - self._linear * of_y) / self._determinant
        floor = (of_y - scale * self._linear) / self._ones
        self._at_zero = floor < 0
        self.scale = np.where(self._at_zero, with_y / self._square, scale)
        self.floor = np.where(self._at_zero, 0.0, floor)
        total = float(weight @ y**2)
        squares = total - self.scale * with_y - self.floor * of_y
        self.squares = np.where(self.scale > 0, np.maximum(squares, 1e-10 * total), np.inf)

    @property
    def variance(self) -> tuple[Array, Array, Array]:
        """What a form's square, the form and 1 count [G, K, R] in the variance of a prediction, per variance of a point
        of weight 1."""
        free = 1 / self._determinant
        return (
            np.where(self._at_zero, 1 / self._square, self._ones * free),
            np.where(self._at_zero, 0.0, -2 * self._linear * free),
            np.where(self._at_zero, 0.0, self._square * free),
        )
