"""Known truths come back: exactly without noise, and within intervals that cover as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from analysis.fit.estimate import Fit, Options, compute_optimal, fit_law
from analysis.fit.loss import SQUARED
from analysis.fit.student import NoFit
from analysis.isoflop import Allocation, allocation, bias_of_minima, parabola_minimum
from analysis.laws import LAWS
from analysis.laws.law import Array, Law
from analysis.laws.surfaces import CHINCHILLA, REPEATED

TRUTH = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}  # Hoffmann et al. 2022, eq. 10
EXACT = Options(SQUARED, bootstrap=0)


def internal(law: Law, parameters: dict[str, float]) -> Array:
    """Internal coordinates [1, P] of named parameters."""
    return np.array(
        [[np.log(parameters[one.name]) if one.positive else parameters[one.name] for one in law.parameters]]
    )


def grid(sizes: int = 8, lengths: int = 8) -> Array:
    """N and D [2, sizes * lengths], three decades each."""
    n, d = np.meshgrid(np.geomspace(1e7, 1e10, sizes), np.geomspace(1e8, 1e11, lengths))
    return np.stack([n.ravel(), d.ravel()])


@pytest.mark.parametrize("name", LAWS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    """The analytic gradient of every law, by every parameter."""
    law, rng = LAWS[name], np.random.default_rng(1)
    columns = rng.uniform(1, 9, size=(len(law.variables), 12))
    y = 0.3 + columns[0] ** -0.4
    for theta in law.starts(columns, y)[:3]:
        gradient = law.evaluate(theta[None], columns)[1][0]
        numeric = approx_fprime(theta, lambda point: law.evaluate(point[None], columns)[0][0], 1e-7)
        np.testing.assert_allclose(gradient, numeric, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "truth",
    [
        TRUTH,
        {"E": 0.6, "A": 59.1, "B": 155.1, "alpha": 0.31, "beta": 0.31},
        {"E": 0.05, "A": 12.0, "B": 30.0, "alpha": 0.2, "beta": 0.45},
    ],
)
def test_exact_surfaces_come_back(truth: dict[str, float]) -> None:
    """Without noise every parameter of the two-variable law, to 1e-6, under both losses."""
    columns = grid()
    y = np.exp(CHINCHILLA.log_value(internal(CHINCHILLA, truth), columns)[0])
    for options in (EXACT, Options(bootstrap=0)):
        fit = fit_law(CHINCHILLA, columns, y, options=options)
        assert isinstance(fit, Fit)
        for name, value in truth.items():
            assert fit.parameters[name] == pytest.approx(value, rel=1e-6)


def test_worth_of_repeated_data_comes_back() -> None:
    """The decay of repeats (Muennighoff et al. 2023), and that one pass equals the plain law."""
    columns = np.vstack([grid(), np.tile([1e8, 1e9, 1e10, 1e12], 16)])
    truth = TRUTH | {"R": 15.39}
    theta = internal(REPEATED, truth)
    y = np.exp(REPEATED.log_value(theta, columns)[0])
    fit = fit_law(REPEATED, columns, y, options=EXACT)
    assert isinstance(fit, Fit)
    for name, value in truth.items():
        assert fit.parameters[name] == pytest.approx(value, rel=1e-5)
    once = columns.copy()
    once[2] = 1e15
    plain = CHINCHILLA.log_value(internal(CHINCHILLA, TRUTH), columns[:2])
    np.testing.assert_allclose(REPEATED.log_value(theta, once), plain, rtol=1e-12)


@pytest.mark.slow(seconds=4)
def test_intervals_cover_and_estimates_are_not_biased() -> None:
    """20 synthetic studies: 90 % intervals cover 85 to 95 % of the parameters, with a bias below a tenth of them."""
    rng = np.random.default_rng(20)
    covered, scaled = [], []
    for _ in range(20):
        truth = {
            "E": rng.uniform(0.5, 2), "A": np.exp(rng.uniform(4, 6.5)), "B": np.exp(rng.uniform(4, 6.5)),
            "alpha": rng.uniform(0.25, 0.4), "beta": rng.uniform(0.25, 0.4),
        }  # fmt: skip
        columns = grid(10, 12)
        exact = CHINCHILLA.log_value(internal(CHINCHILLA, truth), columns)[0]
        y = np.exp(exact + rng.normal(0, 0.005, size=len(exact)))
        fit = fit_law(CHINCHILLA, columns, y, options=Options(1e-2, bootstrap=400, confidence=0.9))
        assert isinstance(fit, Fit)
        for name, value in truth.items():
            interval = fit.intervals[name]
            assert interval is not None
            covered.append(value in interval)
            scaled.append((fit.parameters[name] - value) / (interval.high - interval.low))
    assert 0.85 <= np.mean(covered) <= 0.95
    assert abs(np.mean(scaled)) < 0.1


def test_parabolas_are_biased_and_say_so() -> None:
    """An off-centre grid of equal compute, no noise: parabolas miss the exponent, by what the simulation says."""
    budget = np.repeat(np.geomspace(1e18, 1e21, 5), 9)
    wide = np.tile(np.geomspace(0.04, 8, 9), 5)
    exponent = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
    n = wide * 0.1 * (budget / 6) ** (exponent + 0.02)
    theta = internal(CHINCHILLA, TRUTH)

    def surface(n: Array, d: Array) -> Array:
        return np.exp(CHINCHILLA.log_value(theta, np.stack([n, d]))[0])

    y = surface(n, budget / (6 * n))
    parabolas = allocation(budget, n, y, parabola_minimum)
    assert isinstance(parabolas, Allocation)
    assert abs(parabolas.exponent - exponent) > 1e-3
    bias = bias_of_minima(budget, n, surface, exponent, parabola_minimum)
    assert bias == pytest.approx(parabolas.exponent - exponent)
    fit = fit_law(CHINCHILLA, np.stack([n, budget / (6 * n)]), y, options=EXACT)
    assert isinstance(fit, Fit)
    assert compute_optimal(fit, 1e21).exponent == pytest.approx(exponent, rel=1e-7)


def test_best_use_is_where_the_loss_is_lowest() -> None:
    """N* and D* of a budget, against the lowest loss on a fine grid of sizes."""
    columns = grid()
    y = np.exp(CHINCHILLA.log_value(internal(CHINCHILLA, TRUTH), columns)[0])
    fit = fit_law(CHINCHILLA, columns, y, options=EXACT)
    assert isinstance(fit, Fit)
    n = np.geomspace(1e7, 1e11, 200_001)
    lowest = n[fit.value(np.stack([n, 1e21 / (6 * n)])).argmin()]
    best = compute_optimal(fit, 1e21)
    assert best.n == pytest.approx(lowest, rel=1e-3)
    assert 6 * best.n * best.d == pytest.approx(1e21)


def test_no_best_use_of_what_does_not_help() -> None:
    """A loss that rises with data has no best division of compute: no number, no interval, no warning of numpy's."""
    columns = grid(5, 5)
    y = 0.5 + 8 * columns[0] ** -0.3 + 1e-4 * columns[1] ** 0.2
    fit = fit_law(CHINCHILLA, columns, y, options=Options(bootstrap=50))
    assert isinstance(fit, Fit)
    assert fit.parameters["beta"] < 0
    best = compute_optimal(fit, 1e20)
    assert np.isnan([best.n, best.d, best.exponent]).all()
    assert best.n_interval is None and best.exponent_interval is None


@pytest.mark.parametrize("sizes", [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0]])
def test_no_optimum_where_none_lies_inside(sizes: list[float]) -> None:
    """Three sizes, or a loss that only falls: no minimum is made up, and the reason is told."""
    budget = np.repeat([1e18, 1e19, 1e20], len(sizes))
    n = np.tile(sizes, 3)
    refused = allocation(budget, n, 5 - n, parabola_minimum)
    assert isinstance(refused, NoFit)
    assert ("needed" if len(sizes) == 3 else "not between") in refused.reason


@pytest.mark.slow(seconds=3)
def test_prediction_intervals_cover_further_points() -> None:
    """95 % intervals beyond the fitted range hold about 95 % of fresh points of the same law and noise."""
    rng, inside = np.random.default_rng(4), []
    for _ in range(15):
        columns, beyond = grid(6, 6), np.stack([np.full(40, 3e10), np.full(40, 3e11)])
        theta = internal(CHINCHILLA, TRUTH)
        y = np.exp(CHINCHILLA.log_value(theta, columns)[0] + rng.normal(0, 0.01, 36))
        fit = fit_law(CHINCHILLA, columns, y, options=Options(SQUARED, bootstrap=300))
        assert isinstance(fit, Fit)
        band = fit.predict(beyond)
        fresh = np.exp(CHINCHILLA.log_value(theta, beyond)[0] + rng.normal(0, 0.01, 40))
        inside.append(((band.low <= fresh) & (fresh <= band.high)).mean())
    assert 0.88 <= np.mean(inside) <= 0.99


def test_clusters_are_drawn_whole() -> None:
    """Points that share their size's own departure: the bootstrap by size gives the wider, honest interval."""
    rng = np.random.default_rng(5)
    n = np.repeat(np.geomspace(1e6, 1e9, 8), 10)
    shared = np.repeat(rng.normal(0, 0.05, 8), 10)
    y = 5 * n**-0.1 * np.exp(shared + rng.normal(0, 0.002, 80))
    widths = []
    for clusters in (np.arange(80), n, None):
        fit = fit_law(LAWS["power"], n[None], y, clusters=clusters, options=Options(SQUARED, bootstrap=500))
        assert isinstance(fit, Fit)
        interval = fit.intervals["alpha"]
        assert interval is not None
        widths.append(interval.high - interval.low)
    assert widths[1] > 2 * widths[0] and widths[2] == pytest.approx(widths[1])


@pytest.mark.parametrize(
    ("columns", "y", "reason"),
    [
        ([[1, 2, 3]], [3, 2, 1], "needs 4"),
        ([[1, 1, 1, 1, 1]], [3, 2, 1, 2, 3], "1 distinct place"),
        ([[1, 2, 3, 4, 5]], [3, 2, 1, 0, 1], "zero or negative"),
        ([[1, 2, 3, 4, -5]], [3, 2, 1, 1, 1], "variables are zero or negative"),
        ([[1, 2, 3, 4, 5]], [2, 2, 2, 2, 2], "equal"),
        ([[1, 2, 3, np.nan, np.nan]], [3, 2, 1, 2, 1], "needs 4"),
    ],
)
def test_what_cannot_carry_a_law_is_refused(columns: list[list[float]], y: list[float], reason: str) -> None:
    """Too few, identical, missing, zero and negative: the reason, never a number."""
    refused = fit_law(LAWS["offset"], columns, y)
    assert isinstance(refused, NoFit)
    assert reason in refused.reason


def test_vanished_terms_are_named() -> None:
    """A pure power law has no floor and no shift: each that has no effect is said to, with an interval from 0."""
    n = np.geomspace(1e6, 1e9, 20)
    y = 5 * n**-0.3 * np.exp(np.random.default_rng(6).normal(0, 0.01, 20))
    fit = fit_law(LAWS["shifted"], n[None], y, options=Options(SQUARED, bootstrap=100))
    assert isinstance(fit, Fit)
    if "s" in fit.diagnostics.at_bounds:
        interval = fit.intervals["s"]
        assert interval is not None and interval.low == 0 < interval.high < 1e7
        assert any(warning.startswith("s has no effect") for warning in fit.diagnostics.warnings)
    else:
        assert fit.parameters["s"] < 1e6
