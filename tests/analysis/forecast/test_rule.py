"""The one rule on curves whose continuation is known, and that no forecast knows what it is judged by."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.fit.student import NoFit
from analysis.forecast import Forecast, forecast, forecast_all, frontier
from analysis.forecast.rolling import MOST_ORIGINS, Asked, Rolled, origins, roll_all
from analysis.forecast.rule import Rule, combine, shares_of
from analysis.laws.law import Array

X = np.geomspace(1e6, 1e9, 15)
CURVES = {
    "straight": lambda x: 3 * x**-0.2,
    "floor": lambda x: 0.5 + 30 * x**-0.3,
    "bent": lambda x: 2 * x**-0.05 * (1 + x / 3e7) ** -0.4,
    "two ends": lambda x: 0.2 + 0.8 / (1 + (x / 1e8)),
}


def roll(x: Array, y: Array, at: Array) -> Rolled:
    """The forecasts of one curve."""
    return roll_all([Asked(x, y, at)])[0]


def told(*arguments: object, **options: object) -> Forecast:
    """A forecast that must not be refused."""
    answer = forecast(*arguments, **options)  # type: ignore[arg-type]
    assert isinstance(answer, Forecast), answer
    return answer


@pytest.mark.parametrize("name", CURVES)
def test_exact_curves_are_continued(name: str) -> None:
    """Ten times beyond, without noise, to 2 %, and inside the interval; the right kind of form leads."""
    curve = CURVES[name]
    answer = told(X, curve(X), [1e10])
    truth = curve(1e10)
    assert answer.y[0] == pytest.approx(truth, rel=0.02)
    assert answer.low[0] * (1 - 1e-6) <= truth <= answer.high[0] * (1 + 1e-6)
    assert sum(answer.shares.values()) == pytest.approx(1)


def test_units_and_order_do_not_matter() -> None:
    """Images or billions of images, loss in any unit, rows in any order: the same forecast."""
    y = CURVES["floor"](X) * np.exp(np.random.default_rng(0).normal(0, 0.01, len(X)))
    plain = told(X, y, [4e9, 1e10])
    scaled = told(X[::-1] / 1e9, y[::-1] * 1e-6, [4, 10])
    np.testing.assert_allclose(scaled.y, plain.y * 1e-6, rtol=1e-4)
    np.testing.assert_allclose(scaled.high / scaled.low, plain.high / plain.low, rtol=1e-3)


def test_origins_do_not_know_what_comes() -> None:
    """What an origin says does not change with the points after it: these judge it."""
    y = CURVES["bent"](X) * np.exp(np.random.default_rng(1).normal(0, 0.01, len(X)))
    other = y.copy()
    other[10:] *= np.linspace(1, 20, 5)
    level = np.exp(np.log(y).mean() - np.log(other).mean())  # forms are searched about the mean level of all points
    first, second = roll(X, y, np.array([1e10])), roll(X, other * level, np.array([1e10]))
    early = first.seen <= 10
    assert early.sum() >= 5
    np.testing.assert_allclose(
        second.forecasts[:, early] - np.log(level), first.forecasts[:, early], atol=1e-3, equal_nan=True
    )


def test_origins_are_few_even_and_between_distinct_x() -> None:
    """At most twelve, along log x, never between two points of the same x, never with nothing left to judge by."""
    many = origins(np.geomspace(1, 1e6, 200))
    assert len(many) == MOST_ORIGINS and many[0] == 5 and many[-1] == 199
    assert np.ptp(np.diff(many)) <= 2
    assert origins(np.repeat(np.geomspace(1, 100, 8), 3)).tolist() == [15, 18, 21]


def test_errors_to_either_side_balance() -> None:
    """Shares of Bates and Granger 1969: inverse variances where errors are independent, halves where they cancel."""
    errors = np.array([[1.0, 0.0, 1.0, 0.0], [0.0, 2.0, 0.0, 2.0]])
    np.testing.assert_allclose(shares_of(errors, np.ones(4), 0.0), [0.8, 0.2], atol=1e-4)
    mirrored = np.array([[1.0, -1.0], [-1.0, 1.0], [1.1, -1.1]])
    np.testing.assert_allclose(shares_of(mirrored, np.ones(2), 0.0)[1], 0.5, atol=0.05)
    np.testing.assert_allclose(shares_of(np.ones((3, 4)), np.ones(4), 0.1), 1 / 3, atol=1e-6)


@pytest.mark.slow(seconds=4)
def test_intervals_cover_what_follows() -> None:
    """12 noisy curves of four kinds, twice beyond: 95 % intervals hold at least 85 % of further points."""
    rng = np.random.default_rng(5)
    x, at = np.geomspace(1e6, 1e9, 12), np.geomspace(1.2e9, 2e9, 3)
    inside = []
    for number in range(12):
        curve = list(CURVES.values())[number % len(CURVES)]
        answer = told(x, curve(x) * np.exp(rng.normal(0, 0.02, len(x))), at)
        further = curve(at) * np.exp(rng.normal(0, 0.02, len(at)))
        inside.append((answer.low < further) & (further < answer.high))
    assert np.mean(inside) >= 0.85


def test_intervals_grow_with_confidence_and_with_distance() -> None:
    """A surer interval is wider, and so is that of a place farther out; the forecast of one place stays."""
    y = CURVES["floor"](X) * np.exp(np.random.default_rng(2).normal(0, 0.02, len(X)))
    half, most = told(X, y, [1e10], confidence=0.5), told(X, y, [1e10], confidence=0.99)
    assert half.y == most.y
    assert most.low < half.low < half.y < half.high < most.high
    near, far = told(X[7:], y[7:], [1.5e9]), told(X[7:], y[7:], [2e10])
    assert far.high / far.low > near.high / near.low
    assert any("the points test no more than" in warning for warning in far.warnings)


def test_a_change_that_noise_may_feign_is_not_kept() -> None:
    """Where points scatter by more than they fall, little of the change is left, and a note says so."""
    y = np.exp(np.random.default_rng(4).normal(0, 0.3, len(X)))
    answer = told(X, y, [3e9])
    assert answer.kept < 0.5
    assert any("stays near the last level" in warning for warning in answer.warnings)


def test_the_change_kept_follows_from_noise_and_number() -> None:
    """With v = 100 s^2 / n, change^2 / (change^2 + v) of it remains, and that share of v widens the interval.

    s^2 is the residuals' variance where a form took four degrees of freedom.
    """
    y = CURVES["straight"](X) * np.exp(np.random.default_rng(6).normal(0, 0.05, len(X)))
    rolled = roll(X, y, np.array([1.5e9, 2e9]))
    all_kept, told_less = combine(rolled, Rule(noise=0)), combine(rolled, Rule(noise=100))
    assert all_kept.kept == 1
    fits = rolled.forecasts[:, -1, : len(X)]
    mean = all_kept.shares @ np.nan_to_num(fits)
    change = all_kept.log_value - mean[-1]
    noise = 100 * np.sum((np.log(y) - mean) ** 2) / (len(X) - 4) / len(X)
    assert 0.05 < told_less.kept < 0.95
    np.testing.assert_allclose(told_less.kept, change[-1] ** 2 / (change[-1] ** 2 + noise), rtol=1e-9)
    np.testing.assert_allclose(told_less.log_value - mean[-1], told_less.kept * change, rtol=1e-9)
    wider = told_less.expected_error**2 - all_kept.expected_error**2
    np.testing.assert_allclose(wider, told_less.kept * noise, rtol=1e-6)


@pytest.mark.slow(seconds=3)
def test_curves_together_are_as_alone() -> None:
    """What is said of one does not depend on the others of its table, nor on how many points they have."""
    rng = np.random.default_rng(8)
    curves = [
        (X[:count], curve(X[:count]) * np.exp(rng.normal(0, 0.01, count)))
        for count, curve in zip((9, 9, 12, 9), CURVES.values(), strict=True)
    ]
    refused, *together = forecast_all([(X[:3], X[:3]), *curves], [2e9])
    assert isinstance(refused, NoFit)
    for (x, y), own in zip(curves, together, strict=True):
        assert isinstance(own, Forecast)
        np.testing.assert_allclose([own.y, own.low, own.high], [[v] for v in _values(told(x, y, [2e9]))], rtol=0.01)


def _values(answer: Forecast) -> tuple[float, float, float]:
    return float(answer.y[0]), float(answer.low[0]), float(answer.high[0])


@pytest.mark.slow(seconds=10)
def test_a_late_fall_of_an_unknown_rate_lies_within_the_interval() -> None:
    """Curves that steepen as a cosine makes them, known to a half or 70 %: 85 % of their ends, 62 % without allowance.

    Points that are each a finished run need none.
    """
    rng = np.random.default_rng(3)
    inside, without = [], []
    x = np.linspace(0, 1, 17)[1:]
    rate = (1 + np.cos(np.pi * x)) / 2
    falls = np.append(0.0, -np.diff(rate))
    gain = ((1 - (1 + 30 * np.maximum(x[:, None] - x, 0)) ** -0.6) * falls).sum(axis=1)
    for number in range(12):
        count = (8, 11)[number % 2]
        y = 0.4 * x ** -rng.uniform(0.15, 0.35) - 0.4 * rng.uniform(0.1, 0.4) * gain
        y *= np.exp(rng.normal(0, 0.005, len(x)))
        run, finished = (told(x[:count], y[:count], x[-1:], finished=kind) for kind in (False, True))
        assert run.y[0] == finished.y[0] and run.high[0] == finished.high[0] and run.low[0] < finished.low[0]
        inside.append(run.low[0] <= y[-1] <= run.high[0])
        without.append(finished.low[0] <= y[-1] <= finished.high[0])
    assert np.mean(inside) >= 0.85 > np.mean(without)


@pytest.mark.slow(seconds=5)
def test_six_points_cover_ten_times_beyond() -> None:
    """One origin hardly tells how large errors are: of 24 forecasts at 10 times the last x 85 % or more hold."""
    rng = np.random.default_rng(2)
    x, inside = np.geomspace(1, 100, 6), []
    for number in range(24):
        noise = (0.005, 0.02, 0.05)[number % 3]
        curve = (lambda x: 0.8 * x**-0.12, lambda x: 0.2 + 0.5 * x**-0.3)[number % 2]
        answer = told(x, curve(x) * np.exp(rng.normal(0, noise, 6)), [1000.0], finished=True)
        inside.append(answer.low[0] <= curve(1000.0) <= answer.high[0])
    assert np.mean(inside) >= 0.85


def test_nothing_above_one_is_said_of_an_error() -> None:
    """An error that rises or scatters ends at 1, and a note says why; a loss may lie above."""
    y = np.clip(0.3 * (X / X[0]) ** 0.17, 0, 1)
    error, loss = told(X, y, [1e11]), told(X, 2 * y, [1e11])
    assert error.y[0] <= 1 and error.high[0] == 1 and any("taken for an error" in note for note in error.warnings)
    assert loss.high[0] > 2


@pytest.mark.parametrize(
    ("x", "y", "at", "reason"),
    [
        (X[:5], X[:5], [1e10], "5 distinct x; a forecast needs 6"),
        (np.repeat(X[:5], 4), np.repeat(X[:5], 4), [1e10], "5 distinct x"),
        (X, np.ones_like(X), [1e10], "all values are equal"),
        (X, X - 1e6, [1e10], "1 of 15 points are zero or negative"),
        (X, X, [1e9], "must lie beyond the largest x, 1e+09"),
        (X, X, [float("nan")], "must lie beyond the largest x"),
        ([], [], [1.0], "0 distinct x"),
        (X, X, [1.1e12], "the points span a factor of 1000 in x and carry no forecast 1100 times"),
    ],
)
def test_points_that_carry_no_forecast_are_refused(x: Array, y: Array, at: list[float], reason: str) -> None:
    """With what is wrong and what would be right."""
    answer = forecast(x, y, at)
    assert isinstance(answer, NoFit) and reason in answer.reason


@pytest.mark.slow(seconds=5)
def test_odd_curves_do_not_break_it() -> None:
    """Steps, spikes, constant beginnings, extreme units and ranges: finite forecasts inside their intervals."""
    curves = {
        "step": (X, np.where(X < 3e7, 1.0, 0.5)),
        "constant beginning": (X, np.where(X < 1e8, 1.0, (X / 1e8) ** -0.1)),
        "all but the last": (X, np.where(np.arange(15) < 14, 1.0, 0.9)),
        "tiny": (X, 1e-250 * CURVES["floor"](X)),
        "sixty decades": (np.geomspace(1, 1e60, 15), np.geomspace(1, 1e-3, 15)),
        "scatter": (X, np.exp(np.random.default_rng(0).normal(0, 20, 15))),
        "repeated": (np.repeat(X, 3), np.repeat(CURVES["bent"](X), 3)),
    }
    for name, (x, y) in curves.items():
        answer = told(x, y, [2 * x.max()])
        assert np.isfinite(answer.y).all() and not np.isnan([answer.low, answer.high]).any(), name
        assert answer.low[0] <= answer.y[0] <= answer.high[0], name


def test_missing_values_are_left_out_and_counted() -> None:
    """A row without x or y changes nothing else."""
    y = CURVES["floor"](X)
    holed = told(np.append(X, [np.nan, 5e7]), np.append(y, [1.0, np.nan]), [2e9])
    assert holed.left_out == 2
    np.testing.assert_allclose(holed.y, told(X, y, [2e9]).y, rtol=1e-9)


def test_frontier_is_what_nothing_cheaper_beats() -> None:
    """Against the definition, on random runs."""
    rng = np.random.default_rng(0)
    x, y = np.exp(rng.uniform(0, 9, 200)).round(1), rng.random(200)
    own_x, own_y = frontier(x, y)
    wanted = sorted((a, b) for a, b in zip(x, y, strict=True) if not ((x <= a) & (y < b)).any())
    assert list(zip(own_x, own_y, strict=True)) == wanted
