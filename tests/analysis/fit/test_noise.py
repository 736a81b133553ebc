"""Intervals from a handful of points, where Student's is exact, and from resamples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.fit.estimate import Fit, Options, fit_law
from analysis.fit.intervals import bca_interval
from analysis.fit.loss import SQUARED
from analysis.fit.power_law import PowerLawFit, fit_power_law
from analysis.fit.profile import Profile, profile
from analysis.fit.student import Interval
from analysis.laws.curves import OFFSET, POWER
from analysis.laws.law import Array, Law

SQUARES = Options(SQUARED, bootstrap=300)


def fitted(law: Law, x: Array, y: Array, options: Options = SQUARES) -> Fit:
    """A fit that must not be refused."""
    fit = fit_law(law, x[None], y, options=options)
    assert isinstance(fit, Fit), fit
    return fit


def interval(fit: Fit, name: str = "alpha") -> Interval:
    """An interval that there must be."""
    found = fit.intervals[name]
    assert found is not None
    return found


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.9999])
@pytest.mark.parametrize("seeds", [1, 3])
def test_three_sizes_have_students_interval(seeds: int, confidence: float) -> None:
    """Of the exponent: one degree of freedom, however many seeds a size has.

    A further size has a wider one than Student's, as its noise may be of another size; the width is not twice that.
    """
    x, t = np.geomspace(1e5, 1e8, 3), stats.t.ppf((1 + confidence) / 2, 1)
    log_y = np.log(4 * x**-0.2) + np.random.default_rng(0).normal(0, 0.02, 3)
    spread = np.repeat([[-0.003], [0.0], [0.003]], 3, axis=1) if seeds == 3 else np.zeros((1, 3))
    y = np.exp(log_y + spread).ravel()
    fit = fitted(POWER, np.tile(x, seeds), y, Options(SQUARED, bootstrap=200, confidence=confidence))
    line = stats.linregress(np.log(x), log_y)
    found = interval(fit)
    expected = -line.slope - t * line.stderr, -line.slope + t * line.stderr
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-6)
    if seeds == 1 and confidence == 0.95:
        small = fit_power_law(x, y)
        assert isinstance(small, PowerLawFit)
        mine, theirs = fit.predict([[1e9]]), small.predict(1e9)
        width, students = np.log(mine.high[0] / mine.low[0]), np.log(theirs.high / theirs.low)
        assert students < width < 2 * students


@pytest.mark.slow(seconds=3)
@pytest.mark.parametrize("n", [3, 4, 5, 8, 20])
def test_noise_alone_shows_no_exponent(n: int) -> None:
    """Of 300 constants with noise, at most 6 % (and of binomial chance 2.6 % more) have an exponent other than 0."""
    rng, x, shown = np.random.default_rng(n), np.geomspace(1e5, 1e8, n), 0
    for _ in range(300):
        fit = fitted(POWER, x, 0.4 * np.exp(rng.normal(0, 0.02, n)), Options(SQUARED, bootstrap=50))
        shown += 0.0 not in interval(fit)
    assert shown <= 0.086 * 300


@pytest.mark.parametrize("sign", [-1, 1])
def test_noise_that_changes_along_x(sign: int) -> None:
    """Fivefold over the range, ten sizes: exponent and one further row at ten times the largest are held in 90 %."""
    rng, x = np.random.default_rng(1), np.geomspace(1e5, 1e9, 11)
    along = np.log10(x / 1e5) / 3 - 0.5
    inside, further = 0, 0
    for _ in range(150):
        y = 4 * x**-0.2 * np.exp(0.02 * 5 ** (sign * along) * rng.normal(size=11))
        fit = fitted(POWER, x[:10], y[:10], Options(SQUARED, bootstrap=200))
        band = fit.predict([[x[10]]])
        inside += 0.2 in interval(fit)
        further += bool(band.low[0] <= y[10] <= band.high[0])
    assert inside >= 135 and further >= 132


@pytest.mark.slow(seconds=4)
def test_a_bent_law_of_few_points() -> None:
    """Six sizes and a floor: all three parameters lie in their intervals in nine of ten data sets or more."""
    rng, x, held = np.random.default_rng(2), np.geomspace(1e5, 1e8, 6), []
    for _ in range(50):
        fit = fitted(OFFSET, x, (0.1 + 40 * x**-0.4) * np.exp(rng.normal(0, 0.02, 6)), Options(SQUARED, bootstrap=200))
        held.append([value in interval(fit, name) for name, value in {"E": 0.1, "A": 40.0, "alpha": 0.4}.items()])
    assert np.mean(held, axis=0).min() >= 0.88


def test_too_few_points_for_a_bent_law_are_told() -> None:
    """Four sizes leave one degree of freedom for three parameters: no interval and no prediction's, with the reason."""
    x = np.geomspace(1e5, 1e8, 4)
    fit = fitted(OFFSET, x, (0.1 + 40 * x**-0.4) * np.exp(np.random.default_rng(0).normal(0, 0.02, 4)))
    assert set(fit.intervals.values()) == {None} and np.isnan(fit.predict([[1e9]]).low[0])
    assert any("takes 5" in warning for warning in fit.diagnostics.warnings)


def test_a_floor_that_is_not_there_leaves_the_other_intervals() -> None:
    """E at 0: its interval begins there, exponent and prediction have theirs, and no number is not one."""
    x = np.geomspace(1e5, 1e8, 10)
    for seed in range(20):
        fit = fitted(OFFSET, x, 4 * x**-0.2 * np.exp(np.random.default_rng(seed).normal(0, 0.02, 10)))
        if "E" in fit.diagnostics.at_bounds:
            break
    assert "E" in fit.diagnostics.at_bounds
    floor, slope, band = interval(fit, "E"), interval(fit), fit.predict([[1e9]])
    assert floor.low == 0 < floor.high < 0.15 and slope.low < 0.2 < slope.high
    assert band.low[0] < 4 * 1e9**-0.2 < band.high[0]


def test_a_narrow_range_is_told() -> None:
    """Sizes within a factor of two say little of any form."""
    x = np.geomspace(1e5, 1.8e5, 8)
    fit = fitted(POWER, x, 4 * x**-0.2 * np.exp(np.random.default_rng(0).normal(0, 0.02, 8)))
    assert any("spans a factor of 1.8" in warning for warning in fit.diagnostics.warnings)


@pytest.mark.parametrize("n", [3, 5, 20])
def test_a_profile_about_zero_is_closed(n: int) -> None:
    """An exponent near 0 is no reason to walk no further: Student's interval, both ends closed, of null data."""
    x = np.geomspace(1e5, 1e8, n)
    for seed in range(15):
        y = 0.4 * np.exp(np.random.default_rng(seed).normal(0, 0.02, n))
        found = profile(fitted(POWER, x, y, Options(SQUARED, bootstrap=0)), "alpha")
        line = stats.linregress(np.log(x), np.log(y))
        half = stats.t.ppf(0.975, n - 2) * line.stderr
        assert isinstance(found, Profile) and found.open_ends == ()
        assert (found.low, found.high) == pytest.approx((-line.slope - half, -line.slope + half), rel=1e-4, abs=1e-8)


def test_the_same_as_scipys() -> None:
    """Of a mean with skewed values: scipy's BCa interval from as many draws."""
    values = np.random.default_rng(0).exponential(size=60)
    rng = np.random.default_rng(1)
    draws = rng.choice(values, (20_000, 60)).mean(axis=1)
    jackknife = np.array([np.delete(values, i).mean() for i in range(60)])
    ours = bca_interval(float(values.mean()), draws, jackknife, 0.9)
    theirs = stats.bootstrap((values,), np.mean, confidence_level=0.9, n_resamples=20_000, random_state=2)
    assert ours is not None
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.01)


@pytest.mark.parametrize("beyond", [np.inf, np.nan, 1e200])
@pytest.mark.parametrize("place", ["draws", "jackknife"])
def test_values_beyond_numbers_have_no_interval(place: str, beyond: float) -> None:
    """A resample that ran away gives no interval rather than an error or a number from nowhere."""
    draws, jackknife = np.linspace(0, 1, 100), np.linspace(0, 1, 10)
    (draws if place == "draws" else jackknife)[3] = beyond
    assert bca_interval(0.5, draws, jackknife, 0.9) is None
