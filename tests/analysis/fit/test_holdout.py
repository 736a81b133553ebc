"""Leaving out one row or size: the same as fitting the rest anew, and honest where the rest is not enough."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.fit.estimate import Fit, Options, fit_law
from analysis.fit.holdout import HeldOut, LeaveOneOut, hold_out, leave_one_out
from analysis.fit.loss import SQUARED
from analysis.fit.power_law import PowerLawFit, fit_power_law
from analysis.laws.curves import POWER
from analysis.laws.law import Law
from analysis.laws.surfaces import CHINCHILLA

SQUARES = Options(delta=SQUARED, bootstrap=0)


def fitted(law: Law, columns: object, y: object, clusters: object = None) -> tuple[Fit, LeaveOneOut]:
    """A fit by least squares and its fits without each cluster."""
    fit = fit_law(law, np.asarray(columns), np.asarray(y), clusters=clusters, options=SQUARES)  # type: ignore[arg-type]
    assert isinstance(fit, Fit), fit
    left = leave_one_out(fit)
    assert left is not None
    return fit, left


def test_rows_of_a_line() -> None:
    """For a straight line the range is that of regressions without each point; the outlier is named, and its error."""
    x = np.geomspace(1e5, 1e8, 8)
    y = 4 * x**-0.2 * np.exp(np.random.default_rng(0).normal(0, 0.01, 8))
    y[-1] *= 1.3
    _, left = fitted(POWER, [x], y)
    small = fit_power_law(x, y)
    assert isinstance(small, PowerLawFit) and small.b_leave_one_out is not None
    found, oracle = left.ranges["alpha"], small.b_leave_one_out
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high), rel=1e-6)
    assert left.moved_most_by["alpha"] == "8"
    slope, level = np.polyfit(np.log(x[:-1]), np.log(y[:-1]), 1)
    last = left.predictions[-1]
    assert (last.label, last.n) == ("8", 1)
    assert last.worst_error == pytest.approx(np.exp(level + slope * np.log(x[-1])) / y[-1] - 1, rel=1e-6)


def test_sizes_of_a_surface() -> None:
    """With sizes as clusters, each fit is one of the other sizes' runs alone; the odd size moves alpha most."""
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e8, 1e11, 6)))
    y = (1.5 + 300 * n**-0.35 + 500 * d**-0.3) * np.exp(np.random.default_rng(1).normal(0, 0.002, 36))
    odd = n == n.min()
    y[odd] *= 1.05
    names = np.array([f"{size:.0f}" for size in n])
    _, left = fitted(CHINCHILLA, [n, d], y, names)
    assert left.moved_most_by["alpha"] == "1000000" and left.indispensable == ()
    alone = fit_law(CHINCHILLA, [n[~odd], d[~odd]], y[~odd], options=SQUARES)
    assert isinstance(alone, Fit)
    reach = left.ranges["alpha"]
    # To the width of the search's tolerance of resamples.
    assert alone.parameters["alpha"] == pytest.approx(reach.low, rel=1e-3) or alone.parameters[
        "alpha"
    ] == pytest.approx(reach.high, rel=1e-3)
    missed = {one.label: one for one in left.predictions}["1000000"]
    expected = alone.value([n[odd], d[odd]]) / y[odd] - 1
    assert missed.n == 6
    assert missed.mean_error == pytest.approx(np.abs(expected).mean(), rel=0.02)


def test_no_size_of_three_can_be_missed() -> None:
    """Two sizes do not determine floor, coefficient and exponent: nothing is said, and why."""
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e6, 1e8, 3), np.geomspace(1e8, 1e11, 6)))
    y = (1.5 + 300 * n**-0.35 + 500 * d**-0.3) * np.exp(np.random.default_rng(1).normal(0, 0.002, 18))
    _, left = fitted(CHINCHILLA, [n, d], y, n)
    assert left.ranges == {} and left.predictions == () and len(left.indispensable) == 3


def test_a_held_out_row_without_a_value_is_not_scored() -> None:
    """Nothing can be said of it, and what is said of the others stays a number."""
    x = np.geomspace(1e5, 1e8, 10)
    y = 4 * x**-0.2 * np.exp(np.random.default_rng(0).normal(0, 0.01, 10))
    y[-1] = np.nan
    held = x > 1e7
    found = hold_out(POWER, x[None], y, held, options=SQUARES)
    assert isinstance(found, HeldOut) and found.n == held.sum() - 1
    assert np.isfinite([found.mean_error, found.worst_error, found.rmse_log]).all()


@pytest.mark.slow(seconds=4)
def test_intervals_of_many_rows_take_no_fit_for_each() -> None:
    """The jackknife of 20,000 rows would hold a square of them; in parts it is as skewed, and as wide."""
    x = np.geomspace(1e5, 1e8, 20_000)
    y = 4 * x**-0.2 * np.exp(np.random.default_rng(0).normal(0, 0.1, len(x)))
    fit = fit_law(POWER, x[None], y, options=Options(delta=SQUARED, bootstrap=100))
    small = fit_power_law(x, y)
    assert isinstance(fit, Fit) and isinstance(small, PowerLawFit)
    found = fit.intervals["alpha"]
    assert found is not None
    oracle = small.b_interval.high - small.b_interval.low
    assert found.high - found.low == pytest.approx(oracle, rel=0.3)


def test_errors_are_of_the_prediction_over_the_value() -> None:
    """Rows that lie at half and at twice an exact law."""
    x = np.geomspace(1e5, 1e9, 10)
    y = 4 * x**-0.2
    held = np.arange(10) >= 8
    found = hold_out(POWER, x[None], np.where(held, y * np.where(x == x.max(), 2.0, 0.5), y), held, options=SQUARES)
    assert isinstance(found, HeldOut)
    assert (found.n_fit, found.n) == (8, 2)
    assert found.predicted == pytest.approx(y[held])
    assert (found.worst_error, found.mean_error) == pytest.approx((1.0, 0.75), rel=1e-4)
    assert found.rmse_log == pytest.approx(np.log(2), rel=1e-4)
