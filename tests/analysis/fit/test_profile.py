"""Profile intervals against closed forms, a textbook, published intervals and simulated coverage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.optimize import least_squares

from analysis.fit.estimate import Fit, Options, fit_law
from analysis.fit.loss import SQUARED, Loss
from analysis.fit.noise import noise
from analysis.fit.power_law import OffsetPowerLawFit, PowerLawFit, fit_offset_power_law, fit_power_law
from analysis.fit.profile import Profile, profile
from analysis.fit.student import NoFit
from analysis.laws.curves import OFFSET, POWER, SATURATING
from analysis.laws.ends import M4
from analysis.laws.law import Array, Law
from analysis.laws.surfaces import CHINCHILLA

SQUARES = Options(delta=SQUARED, bootstrap=0)
X = np.geomspace(1e5, 1e8, 8)
NOISE = np.random.default_rng(0).normal(0, 0.02, 8)


def fitted(law: Law, columns: object, y: object, options: Options = SQUARES, apart: bool = False) -> Fit:
    """A fit that must not be refused; rows of one place are told to be ``apart``, or not."""
    clusters = np.arange(np.size(y)) if apart else None
    fit = fit_law(law, np.asarray(columns), np.asarray(y), clusters=clusters, options=options)
    assert isinstance(fit, Fit), fit
    return fit


def profiled(fit: Fit, name: str) -> Profile:
    """A profile that must not be refused."""
    found = profile(fit, name)
    assert isinstance(found, Profile), found
    return found


def test_a_straight_line_has_students_interval() -> None:
    """Linear in its parameters, the law's F interval is the square of Student's t interval, for both parameters."""
    y = 4 * X**-0.2 * np.exp(NOISE)
    fit, line = fitted(POWER, [X], y), stats.linregress(np.log(X), np.log(y))
    small = fit_power_law(X, y)
    assert isinstance(small, PowerLawFit)
    slope, t = profiled(fit, "alpha"), stats.t.ppf(0.975, 6)
    assert (slope.low, slope.high) == pytest.approx((small.b_interval.low, small.b_interval.high), rel=1e-5)
    level = profiled(fit, "A")
    half = t * line.intercept_stderr
    assert (level.low, level.high) == pytest.approx(np.exp([line.intercept - half, line.intercept + half]), rel=1e-4)
    # The curve is the parabola ((alpha - best) / error)^2.
    assert slope.criterion == pytest.approx(((slope.values - fit.parameters["alpha"]) / line.stderr) ** 2, abs=1e-3)


def test_a_textbook_profile() -> None:
    """R's ``confint(nls(...))`` on Puromycin (Bates and Watts 1988): Vm 197.302 to 229.290, K 0.046925 to 0.086160."""
    dose = np.repeat([0.02, 0.06, 0.11, 0.22, 0.56, 1.10], 2)
    rate = np.array([76, 47, 97, 107, 123, 139, 159, 152, 191, 201, 207, 200], dtype=float)

    def michaelis(theta: Array, columns: Array) -> tuple[Array, Array]:
        value, gradient = SATURATING.evaluate(np.column_stack([theta, np.ones(len(theta))]), columns)
        return value, gradient[..., :2]

    law = Law("michaelis", "C / (1 + k / x)", "", ("x",), SATURATING.parameters[:2], michaelis,
              lambda columns, y: np.array([[np.log(y.max()), np.log(np.median(columns))]]))  # fmt: skip
    fit = fitted(law, [dose], rate, Options(delta=SQUARED, logarithmic=False, bootstrap=0), apart=True)
    top, half = profiled(fit, "C"), profiled(fit, "k")
    assert (top.low, top.high) == pytest.approx((197.30212, 229.29006), abs=0.01)
    assert (half.low, half.high) == pytest.approx((0.04692517, 0.08615995), abs=1e-5)


def test_the_floor_agrees_with_the_small_sample_fit() -> None:
    """Both scan the floor of the same data; the other one's interval is up to a grid step wider on each side."""
    y = 0.1 + 40 * X**-0.4 * np.exp(NOISE)
    small, floor = fit_offset_power_law(X, y), profiled(fitted(OFFSET, [X], y), "E")
    assert isinstance(small, OffsetPowerLawFit) and floor.low and floor.high
    step = y.max() / 48
    assert small.e_interval.low <= floor.low <= small.e_interval.low + 2 * step
    assert small.e_interval.high - 2 * step <= floor.high <= small.e_interval.high
    assert floor.open_ends == ()


@pytest.mark.parametrize("level", [0.0, 0.1])
def test_ends_of_an_exponent_by_another_minimiser(level: float) -> None:
    """At each end of alpha, scipy's best E and A leave a residual sum exactly as high as F allows; E may be 0."""
    y = (level + 4 * X**-0.2) * np.exp(NOISE)
    fit = fitted(OFFSET, [X], y)
    found = profiled(fit, "alpha")

    def least(alpha: float) -> float:
        def residuals(point: Array) -> Array:
            return np.log(point[0] + point[1] * (X / 1e6) ** -alpha) - np.log(y)

        start = [0.02, y.mean() / 2]
        best = least_squares(residuals, start, bounds=([0, 1e-9], np.inf), x_scale=[0.1, 0.1], xtol=1e-14, ftol=1e-14)
        return float(2 * best.cost)

    lowest = 2 * fit.diagnostics.loss
    for end in (found.low, found.high):
        assert end is not None
        assert (least(end) - lowest) * 5 / lowest == pytest.approx(stats.f.ppf(0.95, 1, 5), rel=0.01)


def test_what_the_data_do_not_show_is_open() -> None:
    """A curve without floor: every floor down to 0 fits. Far below a ceiling, nothing bounds it from above."""
    floor = profiled(fitted(OFFSET, [X], 4 * X**-0.2 * np.exp(NOISE)), "E")
    assert floor.low == 0 and floor.high is not None and 0 < floor.high < 0.1 and floor.open_ends == ("low",)
    rising = 1e-4 * X**0.3 * np.exp(NOISE)
    fit = fitted(SATURATING, [X], rising)
    ceiling = profiled(fit, "C")
    assert ceiling.high is None and "high" in ceiling.open_ends
    assert ceiling.low is not None and ceiling.low > 0.9 * rising.max()
    slope = profiled(fit, "alpha")
    assert slope.open_ends == () and slope.low is not None and slope.low < 0.3


def test_a_flat_line_bounds_neither_floor_nor_exponent() -> None:
    """Where nothing falls, any exponent goes with a coefficient small enough."""
    fit = fitted(OFFSET, [X], 0.4 * np.exp(NOISE - NOISE.mean()))
    assert "high" in profiled(fit, "alpha").open_ends
    assert profiled(fit, "A").low == 0


def test_points_on_the_law_have_no_noise_to_judge_by() -> None:
    """Without any residual an interval would be an invention."""
    found = profile(fitted(POWER, [X], 4 * X**-0.25), "alpha")
    assert isinstance(found, NoFit) and "no noise" in found.reason


@pytest.mark.parametrize("delta", [1e-3, 0.03, SQUARED])
def test_the_noise_of_a_huber_loss_is_that_of_its_normal_integrals(delta: float) -> None:
    """For normal residuals ``E psi^2 / E psi'`` is known in closed form; 4,000 points meet it within 10 %."""
    random, x, sigma = np.random.default_rng(3), np.geomspace(1e5, 1e8, 4000), 0.02
    y = 4 * x**-0.2 * np.exp(random.normal(0, sigma, 4000))
    loss = Loss(POWER, x[None], y, np.ones((1, 4000)), delta)
    k = delta / sigma
    share = 2 * stats.norm.cdf(k) - 1
    cut = k**2 * (1 - share) - 2 * k * stats.norm.pdf(k) if np.isfinite(k) else 0.0
    expected = sigma**2 * (share + cut) / share
    assert noise(loss, np.array([np.log(4), 0.2]), 1, np.arange(4000)) == pytest.approx(expected, rel=0.1)


def test_profiles_cover_the_truth_where_noise_is_not_alike() -> None:
    """A tiny delta, outliers, and noise that grows with x: the exponent lies inside in at least 20 of 24 studies."""
    random, x, inside = np.random.default_rng(3), np.geomspace(1e5, 1e8, 40), 0
    for _ in range(24):
        errors = np.geomspace(0.005, 0.05, 40) * random.standard_t(3, 40)
        found = profiled(fitted(POWER, [x], 4 * x**-0.2 * np.exp(errors), Options(1e-3, bootstrap=0)), "alpha")
        inside += found.low is not None and found.high is not None and found.low < 0.2 < found.high
    assert inside >= 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("places", "each", "delta", "heavy"),
    [(20, 1, 0.01, False), (40, 1, 1e-3, False), (40, 1, 0.02, True), (20, 3, SQUARED, False)],
)
def test_coverage(places: int, each: int, delta: float, heavy: bool) -> None:
    """The coverage that docs/fitting.md states: at least 52 of 60 studies, of those that are not refused."""
    random, x, outside = np.random.default_rng(5), np.repeat(np.geomspace(1e5, 1e8, places), each), 0
    for _ in range(60):
        own = random.standard_t(2, places) if heavy else random.normal(size=places)
        errors = np.repeat(0.02 * own, each) + (random.normal(0, 0.01, places * each) if each > 1 else 0)
        fit = fit_law(POWER, [x], 4 * x**-0.2 * np.exp(errors), clusters=x, options=Options(delta, bootstrap=0))
        assert isinstance(fit, Fit)
        found = profile(fit, "alpha")
        outside += isinstance(found, Profile) and not ((found.low or -9) < 0.2 < (found.high or 9))
    assert outside <= 8


def test_clusters_widen_the_interval() -> None:
    """Five runs at each of 24 sizes that share the size's departure are worth 24, also where nobody says so; four
    clusters that hold several sizes are refused."""
    random, x = np.random.default_rng(2), np.repeat(np.geomspace(1e5, 1e8, 24), 5)
    y = 4 * x**-0.2 * np.exp(np.repeat(random.normal(0, 0.03, 24), 5) + random.normal(0, 1e-3, 120))
    fit = fit_law(POWER, [x], y, clusters=x, options=SQUARES)
    assert isinstance(fit, Fit)
    alone, means = profiled(fitted(POWER, [x], y, apart=True), "alpha"), fit_power_law(x, y)
    kept, widest = profiled(fit, "alpha"), means.b_interval if isinstance(means, PowerLawFit) else None
    assert None not in (alone.low, alone.high, kept.low, kept.high) and widest is not None
    width = kept.high - kept.low  # type: ignore[operator]
    assert width > 1.5 * (alone.high - alone.low)  # type: ignore[operator]
    assert width == pytest.approx(widest.high - widest.low, rel=1e-5)
    assert profiled(fitted(POWER, [x], y), "alpha").high == pytest.approx(kept.high)
    few = fit_law(POWER, [x], y, clusters=np.arange(120) % 4, options=SQUARES)
    assert isinstance(few, Fit)
    refused = profile(few, "alpha")
    assert isinstance(refused, NoFit) and "4 clusters" in refused.reason


def test_few_rows_have_no_huber_profile() -> None:
    """Eight rows do not show how steep a loss of tiny delta is; a delta above the scatter is least squares."""
    y = 4 * X**-0.2 * np.exp(NOISE)
    refused = profile(fitted(POWER, [X], y, Options(1e-4, bootstrap=0)), "alpha")
    assert isinstance(refused, NoFit) and "--huber inf" in refused.reason
    wide, squares = profiled(fitted(POWER, [X], y, Options(1.0, bootstrap=0)), "alpha"), fitted(POWER, [X], y)
    assert wide.high == pytest.approx(profiled(squares, "alpha").high, rel=1e-5)


def test_epochs_intervals(reference_data: Path) -> None:
    """Besiroglu et al. 2024: each profile of the Huber fit lies within a quarter of the published interval's width."""
    table = pd.read_csv(reference_data / "chinchilla_epoch" / "svg_extracted_data.csv")
    table = table[table["loss"] < table["loss"].nsmallest(len(table)).nlargest(5).iloc[-1]]
    n, c = table["Model Size"].to_numpy(), table["Training FLOP"].to_numpy()
    fit = fitted(CHINCHILLA, [n, c / (6 * n)], table["loss"], Options(bootstrap=0))
    for name, low, high in (("E", 1.769, 1.871), ("alpha", 0.317, 0.373), ("beta", 0.331, 0.415)):
        found = profiled(fit, name)
        assert found.low == pytest.approx(low, abs=0.25 * (high - low))
        assert found.high == pytest.approx(high, abs=0.25 * (high - low))


@pytest.mark.slow(seconds=4)
def test_a_law_with_a_runaway_parameter_still_has_profiles() -> None:
    """Far below its top m4 is the offset law, and S runs away: E is bounded as there or less, S is not."""
    x = np.geomspace(1e5, 1e9, 20)
    y = (0.1 + 40 * x**-0.4) * np.exp(np.random.default_rng(7).normal(0, 0.01, 20))
    fit = fitted(M4, [x], y)
    floor, simpler = profiled(fit, "E"), profiled(fitted(OFFSET, [x], y), "E")
    assert None not in (floor.low, floor.high, simpler.low, simpler.high)
    assert simpler.low - 0.02 < floor.low < simpler.low + 1e-4  # type: ignore[operator]
    assert simpler.high - 1e-4 < floor.high < simpler.high + 0.02  # type: ignore[operator]
    top = profiled(fit, "S")
    assert top.high is None and top.low is not None and top.low > 0.9 * y.max() - 0.1
