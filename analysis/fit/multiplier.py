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

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

DRAWS = 20_000


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


@dataclass(frozen=True)
class _Line:
    """Least squares of log y on log x: the centre of the rows, the slope there, and how surely both are known."""

    centre: float
    height: float
    slope: float
    variance: float
    sum_of_squares: float
    count: int

    @property
    def freedom(self) -> int:
        return self.count - 2


def compare(
    a: tuple[ArrayLike, ArrayLike],
    b: tuple[ArrayLike, ArrayLike],
    *,
    levels: Sequence[float] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare recipes ``a`` and ``b``, each given as (compute, error) of its runs.

    Intervals are of draws of both lines from what normal noise leaves possible, each with its own variance, scaled
    together by a t distribution of Welch's degrees of freedom. A draw whose error does not fall reaches no level and
    counts as unbounded.

    Args:
        levels: errors at which to compare; None: the ends and the middle, in the logarithm, of what both reached.

    Raises:
        ValueError: for fewer than 3 runs or 2 values of compute in a recipe, values that are not positive, or errors
            that have no level in common when ``levels`` is None.
    """
    lines = (_line(*a, name="the first recipe"), _line(*b, name="the second recipe"))
    errors = [np.asarray(recipe[1], dtype=float) for recipe in (a, b)]
    low, high = max(values.min() for values in errors), min(values.max() for values in errors)
    if levels is None:
        if low > high:
            raise ValueError("the recipes reached no error in common; say at which level to compare them")
        levels = sorted({high, math.sqrt(low * high), low}, reverse=True)
    generator = np.random.default_rng(seed)
    normal = generator.standard_normal((2, 2, DRAWS))
    at = []
    for level in levels:
        freedom = _welch([_variance_of_needed(line, level) for line in lines], lines)
        scale = np.sqrt(freedom / generator.chisquare(freedom, DRAWS))
        draws = [_draws(line, scale * noise) for line, noise in zip(lines, normal, strict=True)]
        at.append(_multiplier(level, lines, draws, inside=bool(low <= level <= high), confidence=confidence))
    return Comparison((-lines[0].slope, -lines[1].slope), _p_of_equal_slopes(*lines), tuple(at), confidence)


def _line(x: ArrayLike, y: ArrayLike, *, name: str) -> _Line:
    compute, error = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if not ((compute > 0).all() and (error > 0).all()):
        raise ValueError(f"{name}: compute and error must be positive")
    if len(compute) < 3 or len(set(compute)) < 2:
        raise ValueError(
            f"{name}: a law needs 3 runs and 2 values of compute, here {len(compute)} and {len(set(compute))}"
        )
    u, v = np.log(compute), np.log(error)
    centred = u - u.mean()
    total = float(centred @ centred)
    slope = float(centred @ v / total)
    rest = v - v.mean() - slope * centred
    return _Line(float(u.mean()), float(v.mean()), slope, float(rest @ rest) / (len(u) - 2), total, len(u))


def _variance_of_needed(line: _Line, level: float) -> float:
    """To first order, the variance of log x at which a line reaches a level."""
    away = (math.log(level) - line.height) / line.slope
    return line.variance * (1 / line.count + away**2 / line.sum_of_squares) / line.slope**2


def _welch(variances: Sequence[float], lines: Sequence[_Line]) -> float:
    """Degrees of freedom of a difference (Welch and Satterthwaite)."""
    squares = sum(variance**2 / line.freedom for variance, line in zip(variances, lines, strict=True))
    return sum(variances) ** 2 / squares if squares > 0 else float(min(line.freedom for line in lines))


def _draws(line: _Line, noise: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Heights and slopes that the noise leaves possible; ``noise`` is of unit scale, ``[2, draws]``."""
    deviation = math.sqrt(line.variance)
    return (
        line.height + deviation / math.sqrt(line.count) * noise[0],
        line.slope + deviation / math.sqrt(line.sum_of_squares) * noise[1],
    )


def _multiplier(
    level: float,
    lines: tuple[_Line, _Line],
    draws: list[tuple[NDArray[np.float64], NDArray[np.float64]]],
    *,
    inside: bool,
    confidence: float,
) -> Multiplier:
    def needed(line: _Line, height: ArrayLike, slope: ArrayLike) -> NDArray[np.float64]:
        """log x of the level; infinite where the error does not fall."""
        with np.errstate(divide="ignore", invalid="ignore"):
            found = line.centre + (math.log(level) - np.asarray(height)) / np.asarray(slope)
        return np.where(np.asarray(slope) < 0, found, np.inf)

    estimate = needed(lines[1], lines[1].height, lines[1].slope) - needed(lines[0], lines[0].height, lines[0].slope)
    first, second = (needed(line, *drawn) for line, drawn in zip(lines, draws, strict=True))
    with np.errstate(invalid="ignore"):
        ratio = second - first
    tail, never = (1 - confidence) / 2, np.isinf(first)  # where A never reaches the level, B may need any fraction
    low = np.quantile(np.where(never, -np.inf, ratio), tail, method="lower")
    high = np.quantile(np.where(never, np.inf, ratio), 1 - tail, method="higher")
    return Multiplier(level, _exp(float(estimate)), _exp(float(low)), _exp(float(high)), inside)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf  # also of an estimate that is not a number


def _p_of_equal_slopes(a: _Line, b: _Line) -> float:
    variances = [line.variance / line.sum_of_squares for line in (a, b)]
    if sum(variances) == 0:
        return 1.0 if a.slope == b.slope else 0.0
    distance = abs(a.slope - b.slope) / math.sqrt(sum(variances))
    return float(2 * stats.t.sf(distance, _welch(variances, (a, b))))
