"""Levenberg-Marquardt steps for many searches, and the laws that came with them, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq, least_squares

from analysis.fit.loss import SQUARED, Loss
from analysis.fit.minimise import levenberg_marquardt
from analysis.laws.curves import SHIFTED_OFFSET
from analysis.laws.ends import BENT, BROKEN, LEVELLING, M4
from analysis.laws.law import Law


@pytest.mark.slow(seconds=8)
@pytest.mark.parametrize("law", [SHIFTED_OFFSET, M4, BENT, LEVELLING], ids=lambda law: law.name)
@pytest.mark.parametrize("delta", [SQUARED, 0.02])
def test_many_searches_end_where_scipy_ends_each(law: Law, delta: float) -> None:
    """Two weightings of noisy points: the best end is no higher than scipy's from the same starts."""
    rng = np.random.default_rng(3)
    x = np.geomspace(0.01, 100, 30)
    y = np.exp(np.log(0.2 + 0.8 / (1 + x) ** 0.7) + rng.normal(0, 0.02, len(x)))
    weights = np.stack([np.ones(30), (np.arange(30) < 20).astype(float)])
    loss = Loss(law, x[None], y, weights, delta)
    starts = law.starts(x[None], y)
    for row in (0, 1):
        rows = np.full(len(starts), row)
        own = levenberg_marquardt(loss, starts, rows, 300)
        root = np.sqrt(weights[row])
        theirs = []
        for start in starts:
            with np.errstate(all="ignore"):
                end = least_squares(
                    lambda theta, root=root: root * loss.residuals(theta[None])[0][0],  # type: ignore[misc]
                    start,
                    **({"method": "lm"} if delta == SQUARED else {"loss": "huber", "f_scale": delta}),
                )
            theirs.append(loss(end.x[None], rows[:1])[0][0])
        assert own.value.min() <= min(theirs) * (1 + 1e-3)
        assert (own.value <= loss(starts, rows)[0]).all()


def test_a_hopeless_start_stays_where_it_is() -> None:
    """A start whose value is not finite does not disturb the searches beside it."""
    x = np.geomspace(1, 100, 12)
    y = 2 * x**-0.3
    loss = Loss(LEVELLING, x[None], y, np.ones((1, 12)), SQUARED)
    starts = np.array([[np.nan, 0.3, 5.0], [0.0, 0.2, 5.0]])
    minima = levenberg_marquardt(loss, starts, np.zeros(2, dtype=int), 200)
    assert np.isinf(minima.value[0]) and np.isnan(minima.theta[0, 0])
    assert minima.value[1] < 1e-6


@pytest.mark.parametrize("alpha", [1e-3, 0.3, 1.0, 4.0])
def test_m4_solves_its_equation(alpha: float) -> None:
    """The root of p / (1 - p)^alpha = beta x^-c as scipy brackets it."""
    floor, span, beta, c = 0.3, 0.6, 4.0, 0.8
    x = np.geomspace(1e-2, 1e4, 13)
    theta = np.array([[np.log(floor), np.log(span), np.log(beta), c, np.log(alpha)]])
    y = np.exp(M4.log_value(theta, x[None])[0])
    for place, value in zip(x, y, strict=True):
        right = np.log(beta) - c * np.log(place)

        def gap(p: float, right: float = right) -> float:
            return float(np.log(p) - alpha * np.log1p(-p) - right)

        if gap(1 - 1e-15) > 0:  # nearer to its start than a bracket can tell from 1
            assert value == pytest.approx(floor + span * brentq(gap, 1e-300, 1 - 1e-15, xtol=1e-15), rel=1e-6)


def test_broken_is_bent_above_a_floor() -> None:
    """The law without its floor is the law with a floor of next to nothing, and both are straight far from the bend."""
    x = np.geomspace(1e-6, 1e6, 25)
    bent = np.array([[0.2, 0.1, 0.5, 0.0, np.log(0.5)]])
    value = BENT.log_value(bent, x[None])[0]
    np.testing.assert_allclose(BROKEN.log_value(np.insert(bent, 0, -300.0, axis=1), x[None])[0], value, atol=1e-12)
    slopes = np.diff(value) / np.diff(np.log(x))
    assert slopes[0] == pytest.approx(-0.1, abs=1e-3) and slopes[-1] == pytest.approx(-0.6, abs=1e-3)
