"""Two-step prediction: the truth comes back, and the interval includes the uncertainty of both steps."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from analysis.chain import Laws, Runs, TwoStep, fit_two_step, hold_out_two_step
from analysis.fit.estimate import Options
from analysis.fit.student import NoFit
from analysis.laws import LAWS
from analysis.laws.law import Array

POWERS = Laws(LAWS["power"], LAWS["power"], LAWS["power"])
SQUARES = float("inf")
CONFIDENCE = 0.9


def fitted(laws: Laws, runs: Runs, options: Options) -> TwoStep:
    """The chain, where there must be one."""
    chain = fit_two_step(laws, runs, options)
    assert isinstance(chain, TwoStep), chain
    return chain


def powers(x: Array, noise: Array) -> Runs:
    """Runs at ``x`` [n] of loss = 3 x^-0.1 and error = 0.3 loss^1.5, with log ``noise`` [2, n] of each."""
    loss = 3 * x**-0.1 * np.exp(noise[0])
    return Runs(x[None], loss, 0.3 * loss**1.5 * np.exp(noise[1]))


def test_a_chain_without_noise_is_exact() -> None:
    """Offset law into sigmoid: the end at a hundred times the largest run is that of the truth."""
    x = np.geomspace(1e5, 1e9, 24)
    loss = 0.3 + 30 * x**-0.25
    error = 0.05 + 0.6 / (1 + np.exp(-4 * (loss - 0.8)))
    laws = Laws(LAWS["offset"], LAWS["sigmoid"], LAWS["offset"])
    chain = fitted(laws, Runs(x[None], loss, error), Options(bootstrap=0))
    far = 0.3 + 30 * 1e11**-0.25
    assert chain.value([[1e11]])[0] == pytest.approx(0.05 + 0.6 / (1 + np.exp(-4 * (far - 0.8))), rel=1e-5)
    assert (
        chain.beyond(
            [
                [1e11],
            ]
        )[0]
        and not chain.beyond([[1e7]])[0]
    )


@pytest.mark.slow(seconds=4)
def test_the_interval_covers_one_further_run() -> None:
    """Over 100 studies of 14 runs, the 90 % interval at ten times the largest size holds the run about as often."""
    rng = np.random.default_rng(5)
    x = np.append(np.geomspace(1e5, 1e8, 14), 1e9)
    options = Options(SQUARES, bootstrap=100, confidence=CONFIDENCE)
    hits = 0
    for _ in range(100):
        runs = powers(x, rng.normal(0, [[0.02], [0.03]], (2, len(x))))
        band = fitted(POWERS, runs.where(x < 1e9), options).predict([[1e9]])
        hits += int(band.low[0] <= runs.y[-1] <= band.high[0])
    assert 0.80 <= hits / 100 <= 0.97


def test_the_width_is_that_of_the_delta_method() -> None:
    """Small noise, many runs: the interval is as wide as the closed form for two straight lines in logarithms."""
    rng = np.random.default_rng(6)
    x, first, second = np.geomspace(1e5, 1e8, 120), 0.01, 0.02
    runs = powers(x, rng.normal(0, [[first], [second]], (2, len(x))))
    chain = fitted(POWERS, runs, Options(SQUARES, bootstrap=2000, confidence=CONFIDENCE))
    band = chain.predict([[1e10]])
    along, between = np.log(x), np.log(runs.between)
    place, middle = np.log(1e10), np.log(chain.first.value([[1e10]])[0])

    def leverage(values: Array, at: float) -> float:
        return float(1 + 1 / len(values) + (at - values.mean()) ** 2 / ((values - values.mean()) ** 2).sum())

    # The residual of the loss goes through the second link's slope; the doubt of a line adds to that of its points.
    slope = -chain.second.parameters["alpha"]
    spread = [np.sqrt((fit.residuals**2).sum() / (len(x) - 2)) for fit in (chain.first, chain.second)]
    variance = (slope * spread[0]) ** 2 * leverage(along, place) + spread[1] ** 2 * leverage(between, middle)
    width = 2 * norm.ppf(0.5 + CONFIDENCE / 2) * np.sqrt(variance)
    assert np.log(band.high[0] / band.low[0]) == pytest.approx(width, rel=0.08)


def test_what_the_links_have_in_common_is_kept() -> None:
    """An error that follows the true loss, not the noise of the measured one: the two residuals cancel.

    Drawn apart, they would add up to an interval several times too wide.
    """
    rng = np.random.default_rng(7)
    x = np.geomspace(1e5, 1e8, 80)
    unlucky = rng.normal(0, 0.03, len(x))
    runs = powers(x, np.stack([unlucky, -1.5 * unlucky + rng.normal(0, 0.002, len(x))]))
    chain = fitted(POWERS, runs, Options(SQUARES, bootstrap=1000, confidence=CONFIDENCE))
    band = chain.predict([[1e8]])
    apart = 2 * norm.ppf(0.95) * np.hypot(1.5 * 0.03, 1.5 * 0.03)
    assert np.log(band.high[0] / band.low[0]) < apart / 4
    truth = 0.3 * (3 * 1e8**-0.1) ** 1.5
    assert band.low[0] < truth < band.high[0]


def test_both_links_see_the_same_resamples_of_the_same_runs() -> None:
    """A row that lacks one value is left out of every link, and so the draws stay pairs."""
    x = np.geomspace(1e5, 1e8, 12)
    runs = powers(x, np.random.default_rng(8).normal(0, 0.02, (2, 12)))
    runs.y[3], runs.between[5] = np.nan, np.nan
    chain = fitted(POWERS, runs, Options(SQUARES, bootstrap=50))
    assert {fit.diagnostics.left_out for fit in (chain.first, chain.second, chain.direct)} == {2}
    whole = fitted(POWERS, runs.where(np.isfinite(runs.y + runs.between)), Options(SQUARES, bootstrap=50))
    assert chain.predict([[1e9]]).low == pytest.approx(whole.predict([[1e9]]).low)


def test_held_out_rows_are_predicted_step_by_step() -> None:
    """With an exact law every step predicts the held-out rows; a row without a value is not tested."""
    x = np.geomspace(1e5, 1e8, 12)
    runs = powers(x, np.zeros((2, 12)))
    runs.between[-1] = np.nan
    held = hold_out_two_step(POWERS, runs, x > 1e7, Options(bootstrap=0))
    assert not isinstance(held, NoFit)
    for step in (held.first, held.second, held.chain, held.direct):
        assert step.worst_error == pytest.approx(0, abs=1e-6)
        assert step.n == int((x > 1e7).sum()) - 1
    refused = hold_out_two_step(POWERS, runs, x > 1e9, Options(bootstrap=0))
    assert isinstance(refused, NoFit) and "held out" in refused.reason


def test_a_link_that_cannot_be_fitted_says_which_and_why() -> None:
    """Doubts and refusals name their link."""
    x = np.geomspace(1e5, 1e8, 6)
    flat = fit_two_step(POWERS, Runs(x[None], np.full(6, 2.0), 1 / x), Options(bootstrap=0))
    assert isinstance(flat, NoFit) and flat.reason.startswith("first link: all values are equal")
    below = fit_two_step(POWERS, Runs(x[None], 1 / x, np.append(1 / x[:5], -1.0)), Options(bootstrap=0))
    assert isinstance(below, NoFit) and below.reason.startswith("second link: 1 of 6 values are zero or negative")
    few = fitted(POWERS, powers(x[:3], np.array([[0.1, 0, 0], [0, 0.1, 0]])), Options(bootstrap=0))
    assert any(warning.startswith("second link: only 3 different values") for warning in few.warnings)
