"""Intervals of parameters, of what is worked out from them, and of predictions, where clusters hold several places:
against refits by numpy, the delta method and simulated truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from analysis.fit.estimate import Fit, Options, compute_optimal, fit_law
from analysis.fit.intervals import Quantity, parameter_intervals
from analysis.fit.loss import SQUARED
from analysis.fit.student import bounds
from analysis.laws import LAWS
from analysis.laws.curves import POWER
from analysis.laws.law import Array
from analysis.laws.restrictions import Restrictions, restricted
from analysis.laws.surfaces import CHINCHILLA

SQUARES = Options(SQUARED, bootstrap=200)
GROUPS, LENGTHS = 5, 3
GROUP = np.repeat(np.arange(GROUPS), LENGTHS)
X = 10.0 ** (4 + 0.5 * GROUP + 0.3 * np.tile(np.arange(LENGTHS), GROUPS))
SURFACE = {"E": 0.15, "A": 20.0, "B": 30.0, "alpha": 0.4, "beta": 0.35}


def shared_noise(rng: np.random.Generator) -> Array:
    """The logarithm of what rows [n] depart from a law by: half of it is shared by a group."""
    return rng.normal(0, 0.05, GROUPS)[GROUP] + rng.normal(0, 0.05, len(X))


def fitted(columns: Array, y: Array, law: object = POWER, clusters: object = None) -> Fit:
    """A fit by least squares."""
    fit = fit_law(law, columns, y, clusters=clusters, options=SQUARES)  # type: ignore[arg-type]
    assert isinstance(fit, Fit)
    return fit


def surface(n: Array, d: Array) -> Array:
    """The true surface."""
    return SURFACE["E"] + SURFACE["A"] * n ** -SURFACE["alpha"] + SURFACE["B"] * d ** -SURFACE["beta"]


def grid(sizes: int, lengths: int) -> Array:
    """Sizes by lengths [2, n]."""
    axes = np.geomspace(1e4, 1e7, sizes), np.geomspace(1e5, 1e8, lengths)
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")])


def test_few_clusters_are_left_out_one_by_one() -> None:
    """Exponent and prediction of a power law: the jackknife of numpy's lines, Student's t with G - 1 degrees."""
    y = 2 * X**-0.1 * np.exp(shared_noise(np.random.default_rng(0)))
    fit = fitted(X[None], y, clusters=GROUP)
    lines = np.array([np.polyfit(np.log(X[g != GROUP]), np.log(y[g != GROUP]), 1) for g in range(GROUPS)])
    whole = np.polyfit(np.log(X), np.log(y), 1)
    t = stats.t.ppf(0.975, GROUPS - 1)

    def variance(values: Array, about: float) -> float:
        return float((GROUPS - 1) / GROUPS * ((values - about) ** 2).sum())

    half = t * np.sqrt(variance(lines[:, 0], whole[0]))
    interval = fit.intervals["alpha"]
    assert interval is not None
    np.testing.assert_allclose((interval.low, interval.high), (-whole[0] - half, -whole[0] + half), rtol=1e-5)
    left = np.log(y) - np.polyval(whole, np.log(X))
    row = float((left**2).sum()) / (len(X) - 2)
    at = np.log(1e8)
    half = t * np.sqrt(variance(lines @ [at, 1], float(whole @ [at, 1])) + row)
    band = fit.predict([[1e8]])
    np.testing.assert_allclose(np.log(band.high / band.y), half, rtol=1e-4)
    np.testing.assert_allclose(np.log(band.y / band.low), half, rtol=1e-4)


@pytest.mark.slow(seconds=3)
def test_what_clusters_share_is_covered() -> None:
    """Of 120 data sets with shared noise 95 % intervals of the exponent miss about 5 %; row by row they miss more."""
    rng = np.random.default_rng(1)
    missed = np.zeros(2)
    for _ in range(120):
        y = 2 * X**-0.1 * np.exp(shared_noise(rng))
        both = fitted(X[None], y, clusters=GROUP), fitted(X[None], y, clusters=np.arange(len(X)))
        intervals = [fit.intervals["alpha"] for fit in both]
        missed += [interval is None or 0.1 not in interval for interval in intervals]
    by_cluster, by_row = missed / 120
    assert by_cluster <= 0.1 < by_row


def test_clusters_that_are_needed_leave_no_interval() -> None:
    """Two of three sizes do not determine a surface: no interval, and the diagnostics count them."""
    columns = grid(3, 6)
    y = surface(*columns) * np.exp(np.random.default_rng(2).normal(0, 0.01, columns.shape[1]))
    fit = fitted(columns, y, CHINCHILLA, columns[0])
    assert fit.diagnostics.indispensable == 3
    assert set(fit.intervals.values()) == {None}
    assert compute_optimal(fit, 1e12).exponent_interval is None
    assert np.isnan(fit.predict([[1e8], [1e8]]).low).all()


def test_a_quantity_that_is_a_parameter_has_its_interval() -> None:
    """What is worked out from a law goes the way of its parameters: drawn noise and left-out clusters alike."""
    columns = grid(6, 4)
    y = surface(*columns) * np.exp(np.random.default_rng(3).normal(0, 0.01, columns.shape[1]))
    for clusters in (None, columns[0]):
        fit = fitted(columns, y, CHINCHILLA, clusters)
        own, parameter = fit.interval_of(lambda theta: theta[:, 4]), fit.intervals["beta"]
        assert own is not None and parameter is not None
        assert (own.low, own.high) == pytest.approx((parameter.low, parameter.high), rel=1e-6)


def test_the_best_size_against_the_delta_method() -> None:
    """With little noise, exponent and size of the best division are as wide as their linearisation says."""
    columns, noise = grid(8, 6), 1e-4
    y = surface(*columns) * np.exp(np.random.default_rng(4).normal(0, noise, columns.shape[1]))
    fit = fitted(columns, y, CHINCHILLA)
    best = compute_optimal(fit, 1e13)
    residual, jacobian = (part[0] for part in fit.loss.residuals(fit.theta[None]))
    degrees = len(residual) - 5
    covariance = np.linalg.inv(jacobian.T @ jacobian) * (residual**2).sum() / degrees

    def half(quantity: Quantity) -> float:
        steps = 1e-6 * np.eye(5)
        gradient = (quantity(fit.theta + steps) - quantity(fit.theta - steps)) / 2e-6
        return float(stats.t.ppf(0.975, degrees) * np.sqrt(gradient @ covariance @ gradient))

    def log_size(theta: Array) -> Array:
        _, log_a, log_b, alpha, beta = CHINCHILLA.scaled(columns, y).in_table_units(theta).T
        ratio = np.log(alpha / beta) + log_a - log_b
        return np.asarray((ratio + beta * np.log(1e13 / 6)) / (alpha + beta))

    def exponent(theta: Array) -> Array:
        return theta[:, 4] / (theta[:, 3] + theta[:, 4])

    widths = {
        "exponent": (np.array(bounds(best.exponent_interval)), best.exponent, half(exponent)),
        "size": (np.log(np.array(bounds(best.n_interval), float)), np.log(best.n), half(log_size)),
        "data": (np.log(np.array(bounds(best.d_interval), float)), np.log(best.d), half(log_size)),
    }
    for name, (ends, middle, expected) in widths.items():
        assert float(ends.mean()) == pytest.approx(float(middle), abs=0.1 * expected), name
        assert float(ends[1] - ends[0]) == pytest.approx(2 * expected, rel=0.1), name  # noise may change along the grid


@pytest.mark.slow(seconds=4)
def test_the_best_division_of_few_runs_is_covered() -> None:
    """Of 40 grids of four sizes by three lengths 95 % intervals of the exponent miss at most five."""
    columns, rng, missed = grid(4, 3), np.random.default_rng(5), 0
    truth = SURFACE["beta"] / (SURFACE["alpha"] + SURFACE["beta"])
    for _ in range(40):
        y = surface(*columns) * np.exp(rng.normal(0, 0.03, columns.shape[1]))
        interval = compute_optimal(fitted(columns, y, CHINCHILLA), 1e12).exponent_interval
        missed += interval is None or truth not in interval
    assert missed <= 5


@pytest.mark.parametrize("bound", [0.95, 2.0])
def test_a_bounded_ceiling_keeps_its_bound(bound: float) -> None:
    """With clusters left out the interval of a ceiling holds its estimate and respects the bound, however far."""
    rng = np.random.default_rng(6)
    x = np.repeat(np.geomspace(1e3, 1e6, 6), 3) * np.tile([1, 1.5, 2.2], 6)
    y = 0.9 / (1 + (3e3 / x) ** 0.6) * np.exp(rng.normal(0, 0.01, len(x)))
    law = restricted(LAWS["saturating"], Restrictions(bounds={"C": (0.0, bound)}))
    fit = fitted(x[None], y, law, np.repeat(np.arange(6), 3))
    interval = fit.intervals["C"]
    assert interval is not None and fit.parameters["C"] in interval
    assert 0.5 < interval.low < interval.high <= bound


def test_a_floor_that_is_not_there_starts_at_zero() -> None:
    """Where E vanishes in one of the fits their spread means nothing: its interval is that of drawn noise, from 0."""
    columns = grid(6, 4)
    y = (surface(*columns) - SURFACE["E"]) * np.exp(np.random.default_rng(7).normal(0, 0.02, columns.shape[1]))
    fit = fitted(columns, y, CHINCHILLA, columns[0])
    assert fit.parameters["E"] == pytest.approx(0, abs=1e-3)
    floor, alpha = fit.intervals["E"], fit.intervals["alpha"]
    assert floor is not None and floor.low == 0 < floor.high < y.min()
    assert alpha is not None and SURFACE["alpha"] in alpha


def jackknifed(values: dict[str, tuple[float, ...]]) -> tuple[Fit, Fit]:
    """A surface with drawn intervals, and the same with fits without one of four clusters, ``values`` put in."""
    columns = grid(6, 4)
    y = surface(*columns) * np.exp(np.random.default_rng(8).normal(0, 0.01, columns.shape[1]))
    fit = fitted(columns, y, CHINCHILLA)
    without = np.repeat(fit.theta[None], 4, axis=0)
    for name, shifts in values.items():
        without[:, CHINCHILLA.names.index(name)] += shifts
    resampling = replace(fit.resampling, jackknife=without, by_cluster=True)
    found = parameter_intervals(fit.loss, fit.theta, resampling, 0.95)
    return fit, replace(fit, intervals=found, resampling=resampling)


def test_the_further_of_both_ends_counts() -> None:
    """Fits that hardly move leave the drawn interval; those that move make it wider, on both sides of the estimate."""
    fit, wide = jackknifed({"alpha": (0.2, -0.2, 0.2, -0.2), "beta": (1e-6, 0, 0, 0), "A": (2.0, -2.0, 0, 0)})
    assert wide.intervals["beta"] == fit.intervals["beta"]
    t = stats.t.ppf(0.975, 3)
    middle, half = fit.parameters["alpha"], t * np.sqrt(3 / 4 * 4 * 0.2**2)
    alpha, scale = wide.intervals["alpha"], wide.intervals["A"]
    assert alpha is not None and (alpha.low, alpha.high) == pytest.approx((middle - half, middle + half))
    assert scale is not None and scale.low * scale.high == pytest.approx(fit.parameters["A"] ** 2)  # in the logarithm


def test_a_floor_is_taken_as_it_is_and_ends_at_zero() -> None:
    """Fits with floors of 0.5 to 2 times the estimate: no interval below 0, where the logarithm's would not end."""
    fit, wide = jackknifed({"E": (np.log(2.0), np.log(0.5), np.log(2.0), np.log(0.5))})
    floor, estimate = wide.intervals["E"], fit.parameters["E"]
    high = estimate + stats.t.ppf(0.975, 3) * np.sqrt(3 / 4 * estimate**2 * (1 + 0.25 + 1 + 0.25))
    assert floor is not None and floor.low == 0 and floor.high == pytest.approx(high, rel=1e-6)


def test_a_floor_that_vanishes_in_one_fit_keeps_what_was_drawn() -> None:
    """What is cut off at 0 does not vary as it would."""
    fit, wide = jackknifed({"E": (-60.0, 0.5, 0.5, 0.5)})
    assert wide.intervals["E"] == fit.intervals["E"]


def test_three_sizes_without_a_floor_have_no_interval() -> None:
    """Whether two sizes determine the law does not depend on whether the floor was found to be there."""
    columns, rng = grid(3, 6), np.random.default_rng(9)
    for _ in range(8):
        y = (surface(*columns) - SURFACE["E"]) * np.exp(rng.normal(0, 0.02, columns.shape[1]))
        assert fitted(columns, y, CHINCHILLA, columns[0]).diagnostics.indispensable == 3
