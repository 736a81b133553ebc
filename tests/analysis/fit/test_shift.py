"""The shift between two laws: exact without noise, as wide as it must be with it, and refused where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, special

from analysis.fit.shift import Shift, matched_shift, mean_shift
from analysis.fit.student import NoFit
from analysis.laws.law import Array

X = 256 * 2.0 ** np.arange(5)
Curve = tuple[Array, Array]


def curves(factor: float, rng: np.random.Generator, *, noise: float = 0.03, move: float = 0.0) -> tuple[Curve, Curve]:
    """Two laws that lie ``factor`` apart, in noise, each moved as a whole by chance."""
    first, second = (4 * (X / by) ** -0.35 * np.exp(rng.normal(0, move)) for by in (1.0, factor))
    return (X, first * np.exp(rng.normal(0, noise, 5))), (X, second * np.exp(rng.normal(0, noise, 5)))


def shift(*pair: Curve) -> Shift:
    """The shift of a pair that has one."""
    found = matched_shift(*pair)
    assert isinstance(found, Shift)
    return found


def test_without_noise_the_factor_is_exact() -> None:
    """Laws of other exponents, too: the factor at the level where it is stated and at both ends."""
    found = shift((X, 4 * X**-0.3), (X[1:], 5 * X[1:] ** -0.4))
    assert found.n == (5, 4)
    for level, factor in ((found.level, found.factor), *found.ends):
        assert factor == pytest.approx((5 / level) ** (1 / 0.4) / (4 / level) ** (1 / 0.3))
    assert found.interval.low == pytest.approx(found.factor) == pytest.approx(found.interval.high)
    assert found.ends[0][0] == pytest.approx(5 * X[1] ** -0.4) and found.ends[1][0] == pytest.approx(4 * X[-1] ** -0.3)


def test_the_interval_is_that_of_the_residuals() -> None:
    """At both ends the best lines that far apart, found by a general optimiser, have just the residuals allowed."""
    rng = np.random.default_rng(1)
    first, second = curves(2.0, rng, noise=0.05)
    found = shift(first, second)

    def least(distance: float) -> float:
        def residuals(theta: Array) -> Array:
            place, slopes = theta[0], theta[1:]
            return np.concatenate(
                [
                    np.log(y / found.level) + slope * (np.log(x) - at)
                    for (x, y), at, slope in zip((first, second), (place, place + distance), slopes, strict=True)
                ]
            )

        start = [np.log(1000.0), 0.35, 0.35]
        return float(2 * optimize.least_squares(residuals, start, xtol=1e-14, ftol=1e-14, gtol=1e-14).cost)

    limit = least(np.log(found.factor)) * (1 + special.fdtri(1, 6, 0.95) / 6)
    for end in (found.interval.low, found.interval.high):
        assert least(np.log(end)) == pytest.approx(limit, rel=1e-3)


def test_intervals_hold_the_factor_as_often_as_they_say() -> None:
    """About 95 of 100, of lines and of seeds, with a factor and without (more in benchmarks/label_worth.py)."""
    rng = np.random.default_rng(0)
    for factor in (1.0, 3.0):
        held = [factor in shift(*curves(factor, rng)).interval for _ in range(300)]
        assert 0.90 <= np.mean(held) <= 0.98
        seeds = ([curves(factor, rng, move=0.05) for _ in range(5)] for _ in range(300))
        means = [mean_shift(*map(list, zip(*pairs, strict=True))) for pairs in seeds]
        assert 0.91 <= np.mean([isinstance(each, Shift) and factor in each.interval for each in means]) <= 0.99


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ((X, 400 * X**-0.35), "no value that both"),
        ((X, 0.1 * X**0.1), "do not fall"),
        ((X[:2], 4 * X[:2] ** -0.3), "needs at least 3"),
        ((X, 4 * X**-0.35 * np.exp([0.4, -0.5, 0.6, -0.5, 0.3])), "might as well be level"),
        ((X, 0 * X), "zero or negative"),
    ],
)
def test_no_shift_where_there_is_none(second: Curve, reason: str) -> None:
    """Laws without a common value, rising, of two points, or lost in noise have no factor, and the reason is told."""
    found = matched_shift((X, 4 * X**-0.35), second)
    assert isinstance(found, NoFit) and reason in found.reason
