"""Fits against closed forms, known laws and simulated coverage; refusals instead of invented numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from analysis.fit.power_law import OffsetPowerLawFit, PowerLawFit, fit_offset_power_law, fit_power_law
from analysis.fit.student import MeanRatio, NoFit, mean_ratio

SIZES = np.array([1e5, 4e5, 1.6e6, 6.4e6, 2.56e7])
WIDE = np.geomspace(1e4, 1e9, 10)


def fitted(x: object, y: object) -> PowerLawFit:
    """The power law fit of points that must have one."""
    fit = fit_power_law(np.asarray(x), np.asarray(y))
    assert isinstance(fit, PowerLawFit)
    return fit


def test_exact_law_comes_back() -> None:
    """Points on y = 4 x^-0.2 return a, b and a vanishing interval."""
    fit = fitted(SIZES, 4.0 * SIZES**-0.2)
    assert fit.a == pytest.approx(4.0, rel=1e-9)
    assert fit.b == pytest.approx(0.2, rel=1e-9)
    assert fit.b_interval.high - fit.b_interval.low < 1e-9
    assert fit.predict([1e9]).y == pytest.approx(4.0 * 1e9**-0.2)


def test_slope_and_interval_are_those_of_log_log_regression() -> None:
    """The oracle is the normal equations with the t quantile: slope, standard error, prediction."""
    y = np.array([0.55, 0.40, 0.33, 0.22, 0.18])
    fit = fitted(SIZES, y)
    design = np.stack([np.ones(5), np.log(SIZES)], axis=1)
    coefficients, rss, *_ = np.linalg.lstsq(design, np.log(y))
    covariance = rss[0] / 3 * np.linalg.inv(design.T @ design)
    t = stats.t.ppf(0.975, 3)
    assert fit.b == pytest.approx(-coefficients[1])
    assert fit.b_interval.high == pytest.approx(-coefficients[1] + t * covariance[1, 1] ** 0.5)
    new = np.array([1.0, np.log(1e8)])
    half = t * (new @ covariance @ new + rss[0] / 3) ** 0.5
    assert np.log(fit.predict([1e8]).high) == pytest.approx(new @ coefficients + half)


@pytest.mark.parametrize("n", [3, 4, 6])
def test_exponent_interval_covers_95_percent(n: int) -> None:
    """In 2,000 simulated studies of n sizes the true exponent is inside 95 % of the time, even for n = 3."""
    random = np.random.default_rng(n)
    x = np.geomspace(1e5, 1e8, n)
    covered = [0.2 in fitted(x, 4 * x**-0.2 * np.exp(random.normal(0, 0.05, n))).b_interval for _ in range(2000)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


def test_prediction_interval_covers_a_further_size() -> None:
    """The band at a size ten times the largest holds 95 % of new runs there."""
    random = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        y = 4 * np.append(SIZES, 2.56e8) ** -0.2 * np.exp(random.normal(0, 0.05, 6))
        ahead = fitted(SIZES, y[:5]).predict(2.56e8)
        held += bool(ahead.low <= y[5] <= ahead.high)
    assert held / 2000 == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("shared", [0.0, 0.05, 0.1])
@pytest.mark.parametrize("sizes", [3, 5])
def test_one_further_run_is_predicted_where_sizes_have_seeds(sizes: int, shared: float) -> None:
    """A mean of four seeds scatters half as much as the one run that the band is of, unless noise is the size's own."""
    random = np.random.default_rng(1)
    x, ahead = np.repeat(SIZES[:sizes], 4), 4 * SIZES[sizes - 1]
    covered = []
    for _ in range(800):
        noise, own = random.normal(0, shared, sizes + 1), random.normal(0, 0.05, len(x) + 1)
        band = fitted(x, 4 * x**-0.2 * np.exp(np.repeat(noise[:-1], 4) + own[:-1])).predict(ahead)
        covered.append(band.low <= 4 * ahead**-0.2 * np.exp(noise[-1] + own[-1]) <= band.high)
    assert 0.925 <= np.mean(covered) <= 0.985


def test_seeds_of_one_size_count_once() -> None:
    """Seeds share their size's own departure from the law; with it the interval still covers."""
    random = np.random.default_rng(1)
    x = np.repeat(SIZES[:4], 5)
    covered = []
    for _ in range(1000):
        departure = np.repeat(random.normal(0, 0.05, 4), 5)
        fit = fitted(x, 4 * x**-0.2 * np.exp(departure + random.normal(0, 0.01, 20)))
        covered.append(0.2 in fit.b_interval)
    assert fit.n == 4
    assert np.mean(covered) == pytest.approx(0.95, abs=0.03)


def test_outlier_shows_in_leave_one_out() -> None:
    """R3: one outlier widens the interval, and the leave-one-out range still contains the clean exponent."""
    y = 4 * SIZES**-0.2
    y[4] *= 2
    fit = fitted(SIZES, y)
    assert 0.2 in fit.b_interval
    assert fit.b_leave_one_out is not None
    assert fit.b_leave_one_out.high == pytest.approx(0.2)
    assert fit.b_leave_one_out.low < fit.b < 0.2


def test_non_monotone_points_do_not_claim_a_trend() -> None:
    """R3: points that go up and down give an exponent interval that includes 0."""
    assert 0 in fitted(SIZES, [0.4, 0.6, 0.3, 0.6, 0.4]).b_interval


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([], [], "0 distinct points"),
        ([1e5, 1e6], [0.5, 0.4], "2 distinct points; this law needs at least 3"),
        ([1e5, 1e5, 1e5, 1e5], [0.5, 0.4, 0.45, 0.41], "1 distinct point;"),
        ([1e5, 1e6, 1e7], [0.5, 0.4, 0.0], "1 of 3 points is zero or negative"),
        ([1e5, 1e6, 1e7], [0.5, -0.4, -0.1], "2 of 3 points are zero or negative"),
        ([0, 1e6, 1e7], [0.5, 0.4, 0.3], "1 of 3 points is zero or negative"),
        ([1e5, 1e6, 1e7], [0.5, 0.5, 0.5], "all values are equal"),
        ([1e5, 1e6, 1e7], [0.5, np.nan, 0.3], "2 distinct points"),
    ],
)
def test_refusals_give_a_reason(x: list[float], y: list[float], reason: str) -> None:
    """R3: what cannot carry a law is refused with its reason, by both forms."""
    for refused in (fit_power_law(x, y), fit_offset_power_law(x, y)):
        assert isinstance(refused, NoFit)
    power = fit_power_law(x, y)
    assert isinstance(power, NoFit)
    assert reason in power.reason


def test_floor_comes_back() -> None:
    """Points on y = 0.1 + 30 x^-0.4 return all three parameters."""
    fit = fit_offset_power_law(WIDE, 0.1 + 30 * WIDE**-0.4)
    assert isinstance(fit, OffsetPowerLawFit)
    assert [fit.e, fit.b] == pytest.approx([0.1, 0.4], rel=1e-3)
    assert fit.e + fit.a * 1e12**-fit.b == pytest.approx(0.1 + 30 * 1e12**-0.4, rel=1e-3)
    assert 0 not in fit.e_interval


def test_no_floor_is_not_invented() -> None:
    """A pure power law with noise keeps 0 among the possible floors."""
    noise = np.exp(np.random.default_rng(2).normal(0, 0.03, len(WIDE)))
    fit = fit_offset_power_law(WIDE, 4 * WIDE**-0.1 * noise)
    assert isinstance(fit, OffsetPowerLawFit)
    assert 0 in fit.e_interval


@pytest.mark.slow(seconds=5)
def test_floor_interval_covers() -> None:
    """In 60 simulated studies the true floor lies in its interval at least as often as 95 % allows."""
    random = np.random.default_rng(3)
    x = np.geomspace(1e4, 1e8, 6)
    covered = 0
    for _ in range(60):
        fit = fit_offset_power_law(x, (0.1 + 30 * x**-0.4) * np.exp(random.normal(0, 0.03, 6)))
        assert isinstance(fit, OffsetPowerLawFit)
        covered += 0.1 in fit.e_interval
    assert covered >= stats.binom.ppf(0.001, 60, 0.95)


def test_floor_needs_five_sizes_and_a_fall() -> None:
    """Four sizes, or values that rise, carry no floor."""
    assert isinstance(fit_offset_power_law(SIZES[:4], SIZES[:4] ** -0.2), NoFit)
    rising = fit_offset_power_law(SIZES, SIZES**0.1)
    assert isinstance(rising, NoFit) and "do not fall" in rising.reason


def test_paired_ratio_is_the_t_interval_of_log_ratios() -> None:
    """The oracle is scipy's one-sample t interval of the log ratio."""
    first, second = np.array([0.5, 0.42, 0.3, 0.2]), np.array([0.6, 0.5, 0.41, 0.25])
    ratio = mean_ratio(first, second)
    assert isinstance(ratio, MeanRatio)
    oracle = stats.ttest_1samp(np.log(first / second), 0).confidence_interval(0.95)
    assert (ratio.interval.low, ratio.interval.high) == pytest.approx((np.exp(oracle.low), np.exp(oracle.high)))
    assert isinstance(mean_ratio(first[:2], second[:2]), NoFit)
    assert isinstance(mean_ratio([0.0, 0.1, 0.2], [0.1, 0.2, 0.3]), NoFit)


@pytest.mark.parametrize("law", [fit_power_law, fit_offset_power_law])
def test_a_law_too_steep_for_numbers_is_refused(law: Callable[[object, object], object]) -> None:
    """Sizes that hardly differ and errors that do: the value at x = 1 is no number, which is a reason, not a crash."""
    x = 1e8 * (1 + 1e-3 * np.arange(8))
    refused = law(x, 0.3 * (x / 1e8) ** -500.0 * np.exp(np.random.default_rng(0).normal(0, 0.01, 8)))
    assert isinstance(refused, NoFit) and "so steep" in refused.reason


def by_groups(log_x: np.ndarray, log_y: np.ndarray, groups: np.ndarray) -> PowerLawFit:
    """The fit of points whose noise the ``groups`` share."""
    fit = fit_power_law(np.exp(log_x), np.exp(log_y), groups)
    assert isinstance(fit, PowerLawFit)
    return fit


@pytest.mark.slow(seconds=3)
def test_errors_of_groups_are_right_where_all_points_are_independent() -> None:
    """The oracle is simulation: with equal independent noise the variance of the slope is estimated without bias, and
    its own variance gives the degrees of freedom (Satterthwaite)."""
    random = np.random.default_rng(0)
    log_x = np.array([1.0, 2.4, 3.8, 1.9, 3.3, 4.7, 2.8, 4.2, 5.6, 3.7])
    groups = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 3])
    fits = [by_groups(log_x, random.normal(0, 0.1, len(log_x)), groups) for _ in range(3000)]
    slopes, middles = (np.array([getattr(fit.errors, name) for fit in fits]) for name in ("slope", "middle"))
    assert slopes.mean() == pytest.approx(0.01 / ((log_x - log_x.mean()) ** 2).sum(), rel=0.06)
    assert middles.mean() == pytest.approx(0.01 / len(log_x), rel=0.06)
    assert fits[0].errors.degrees == pytest.approx(2 * slopes.mean() ** 2 / slopes.var(), rel=0.12)
    assert fits[0].groups == 4


def test_lengths_of_one_size_claim_no_trend_together() -> None:
    """Four sizes with an offset each, trained for three lengths: 95 % intervals miss the exponent in 5 % of studies,
    those that take all points as independent in 10 %."""
    random, size = np.random.default_rng(1), np.repeat(np.arange(4), 3)
    log_x = 0.9 * size + 1.4 * np.tile(np.arange(3), 4)
    missed = np.zeros(2)
    for _ in range(1000):
        log_y = random.normal(0, 0.1, 4)[size] + random.normal(0, 0.05, 12)
        missed += [0 not in by_groups(log_x, log_y, groups).b_interval for groups in (size, np.arange(12))]
    assert missed[0] / 1000 == pytest.approx(0.055, abs=0.02)
    assert missed[1] / 1000 > 0.08


def test_a_further_size_is_predicted_where_lengths_share_noise() -> None:
    """The band at the longest training of a fifth size holds it in 95 % of studies or more, that of independent points
    in 87 %."""
    random, size = np.random.default_rng(2), np.repeat(np.arange(4), 3)
    log_x = 0.9 * size + 1.4 * np.tile(np.arange(3), 4)
    held = np.zeros(2)
    for _ in range(1000):
        log_y = random.normal(0, 0.1, 4)[size] + random.normal(0, 0.05, 12)
        new = random.normal(0, 0.1) + random.normal(0, 0.05)
        for index, groups in enumerate((size, np.arange(12))):
            band = by_groups(log_x, log_y, groups).predict(np.exp(0.9 * 4 + 1.4 * 2))
            held[index] += np.log(band.low) <= new <= np.log(band.high)
    assert held[0] / 1000 > 0.95
    assert held[1] / 1000 < 0.9


def test_groups_of_one_and_a_group_of_all_change_nothing() -> None:
    """Student's interval of all points stays; an unknown group (NaN) stands for itself."""
    log_x, log_y = np.arange(5.0), np.array([0.0, -0.3, -0.2, -0.6, -0.8])
    alone = by_groups(log_x, log_y, np.arange(5))
    assert by_groups(log_x, log_y, np.zeros(5)) == alone
    assert by_groups(log_x, log_y, np.array([0, np.nan, np.nan, 1, np.nan])) == alone
    assert by_groups(log_x, log_y, np.array([0, 1, 2, 2, np.nan])).groups == 4
