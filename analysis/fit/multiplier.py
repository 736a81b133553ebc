"""How many times the compute one recipe needs for the error that another reaches.

Each recipe's error follows a power law of compute, log y = a - b log x. At a level y of error that both laws reach,
recipe A needs x_A(y) and B needs x_B(y); the compute multiplier is x_B / x_A: below 1, B is the more efficient. Scaling
studies report it as effective compute (Hernandez and Brown 2020, arXiv 2005.04305, for image classification; Ho et al.
2024, arXiv 2403.05812, for language models).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.fit.power_law import PowerLawFit, fit_power_law
from analysis.fit.student import CONFIDENCE, Interval, NoFit, p_value, t_quantile

DRAWS = 20_000


class Recipe(NamedTuple):
    """The runs of one recipe."""

    compute: ArrayLike
    """[runs]; runs of equal compute are averaged in log error."""
    error: ArrayLike
    """[runs]"""
    groups: ArrayLike | None = None
    """[runs], numbers of what shares its noise, say the parameters of a model trained for several lengths."""


@dataclass(frozen=True)
class Multiplier:
    """The multiplier at one level of error, with its interval.

    ``low`` is 0 or ``high`` infinite where the rows do not bound it. ``inside``: the level lies among the errors of
    both recipes, so that neither law is extrapolated.
    """

    level: float
    multiplier: float
    low: float
    high: float
    inside: bool


@dataclass(frozen=True)
class Comparison:
    """Two recipes side by side: the multiplier at each level, and whether the exponents differ.

    ``p_exponents`` is of the hypothesis that both errors fall with the same exponent, in which case the multiplier is
    the same at every level (two-sided t-test of the difference, Welch's degrees of freedom).
    """

    exponents: tuple[float, float]
    p_exponents: float
    at: tuple[Multiplier, ...]
    confidence: float


def compare(
    a: Recipe, b: Recipe, *, levels: Sequence[float] | None = None, confidence: float = 0.95, seed: int = 0
) -> Comparison:
    """Compare the recipes ``a`` and ``b``.

    Intervals are of draws of both lines from what normal noise leaves possible, each with its own variance, scaled
    together by a t distribution of Welch's degrees of freedom. A draw whose error does not fall reaches no level and
    counts as unbounded.

    Args:
        levels: errors at which to compare; None: the ends and the middle, in the logarithm, of what both reached.

    Raises:
        ValueError: for fewer than 3 values of compute in a recipe, values or levels that are not positive, or errors
            that have no level in common when ``levels`` is None.
    """
    fits = (_fitted(a, "the first recipe"), _fitted(b, "the second recipe"))
    if levels is not None and not all(0 < level < math.inf for level in levels):
        raise ValueError("levels are errors above 0")
    low, high = max(fit.y_range[0] for fit in fits), min(fit.y_range[1] for fit in fits)
    if levels is None:
        if low > high:
            raise ValueError("the recipes reached no error in common; say at which level to compare them")
        levels = sorted({high, math.sqrt(low * high), low}, reverse=True)
    generator = np.random.default_rng(seed)
    normal = generator.standard_normal((2, 2, DRAWS))
    at = []
    for level in levels:
        freedom = _welch([_variance_of_needed(fit, level) for fit in fits], fits)
        scale = np.sqrt(freedom / generator.chisquare(freedom, DRAWS))
        drawn = [_log_needed(fit, level, *_draws(fit, scale * noise)) for fit, noise in zip(fits, normal, strict=True)]
        at.append(_multiplier(level, fits, drawn, inside=bool(low <= level <= high), confidence=confidence))
    return Comparison((fits[0].b, fits[1].b), _p_of_equal_exponents(*fits), tuple(at), confidence)


def difference(first: PowerLawFit, second: PowerLawFit, confidence: float = CONFIDENCE) -> Interval:
    """Interval of the difference of two exponents, ``second - first`` (Welch's t of two slopes)."""
    variances = [fit.errors.slope for fit in (first, second)]
    half = t_quantile(_welch(variances, (first, second)), confidence) * math.sqrt(sum(variances))
    return Interval(second.b - first.b - half, second.b - first.b + half)


def _fitted(recipe: Recipe, name: str) -> PowerLawFit:
    fit = fit_power_law(*recipe)
    if isinstance(fit, NoFit):
        raise ValueError(f"{name}: {fit}")
    return fit


def _variance_of_needed(fit: PowerLawFit, level: float) -> float:
    """To first order, the variance of log x at which a law reaches a level; infinite for a law without a slope."""
    if fit.b == 0:
        return math.inf
    away = (_height(fit) - math.log(level)) / fit.b
    return (fit.errors.middle + 2 * fit.errors.both * away + fit.errors.slope * away**2) / fit.b**2


def _welch(variances: Sequence[float], fits: Sequence[PowerLawFit]) -> float:
    """Degrees of freedom of a difference (Welch and Satterthwaite)."""
    squares = sum(variance**2 / fit.errors.degrees for variance, fit in zip(variances, fits, strict=True))
    known = 0 < squares < math.inf
    return sum(variances) ** 2 / squares if known else min(fit.errors.degrees for fit in fits)


def _draws(fit: PowerLawFit, noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Departures of height and slope that the noise leaves possible; ``noise`` is of unit scale, all [2, draws]."""
    covariance = np.array([[fit.errors.middle, fit.errors.both], [fit.errors.both, fit.errors.slope]])
    values, vectors = np.linalg.eigh(covariance)
    departures: NDArray[np.float64] = vectors * np.sqrt(np.maximum(values, 0)) @ noise
    return departures


def _log_needed(
    fit: PowerLawFit, level: float, higher: ArrayLike = 0.0, steeper: ArrayLike = 0.0
) -> NDArray[np.float64]:
    """log x at which a law, moved by so much, reaches a level of error; infinite where the error does not fall."""
    height = _height(fit) + np.asarray(higher)
    slope = np.asarray(steeper) - fit.b
    with np.errstate(divide="ignore", invalid="ignore"):
        found = fit.log_x_mean + (math.log(level) - height) / slope
    return np.where(slope < 0, found, np.inf)


def _height(fit: PowerLawFit) -> float:
    """log y of a law in the middle of its points."""
    return math.log(fit.a) - fit.b * fit.log_x_mean


def _multiplier(
    level: float,
    fits: Sequence[PowerLawFit],
    drawn: Sequence[NDArray[np.float64]],
    *,
    inside: bool,
    confidence: float,
) -> Multiplier:
    with np.errstate(invalid="ignore"):
        estimate = _log_needed(fits[1], level) - _log_needed(fits[0], level)
        ratio = drawn[1] - drawn[0]
    tail, never = (1 - confidence) / 2, np.isinf(drawn[0])  # where A never reaches the level, B may need any fraction
    low = np.quantile(np.where(never, -np.inf, ratio), tail, method="lower")
    high = np.quantile(np.where(never, np.inf, ratio), 1 - tail, method="higher")
    return Multiplier(level, _exp(float(estimate)), _exp(float(low)), _exp(float(high)), inside)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf  # also of an estimate that is not a number


def _p_of_equal_exponents(a: PowerLawFit, b: PowerLawFit) -> float:
    return p_value(difference(a, b), 0.0, _welch([fit.errors.slope for fit in (a, b)], (a, b)))
