"""The compute multiplier of two recipes, against closed forms, scipy, simulated truths and published series."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import analysis
from analysis.fit.multiplier import Recipe, compare, difference
from analysis.fit.power_law import PowerLawFit, fit_power_law
from nepa_scale.utils.errors import UserError

REFERENCE = Path(os.environ.get("NEPA_REFERENCE_DATA", "../shared/reference/scaling_data"))


def law(x: np.ndarray, a: float, b: float) -> np.ndarray:
    """Error at compute x."""
    return np.exp(a - b * np.log(x))


def test_without_noise_the_multiplier_is_the_quotient_of_the_inverted_laws() -> None:
    """Different exponents, so another multiplier at each level; intervals have no width."""
    x = np.geomspace(1, 100, 5)
    answer = compare(Recipe(x, law(x, -1.0, 0.15)), Recipe(x, law(x, -1.1, 0.2)), levels=[0.25, 0.2])
    assert answer.exponents == pytest.approx((0.15, 0.2))
    for found in answer.at:
        needed = [math.exp((a - math.log(found.level)) / b) for a, b in ((-1.0, 0.15), (-1.1, 0.2))]
        assert found.multiplier == pytest.approx(needed[1] / needed[0])
        assert (found.low, found.high) == pytest.approx((found.multiplier, found.multiplier), rel=1e-6)


def test_from_python_tables_are_compared_by_columns(tmp_path: Path) -> None:
    """A frame and a file, with rows chosen by a condition; mistakes name what is wrong."""
    x = np.geomspace(1, 100, 5)
    mine = pd.DataFrame({"flops": x, "error": law(x, -1.0, 0.15), "task": "classify"})
    other = pd.DataFrame({"flops": x, "error": law(x, -1.1, 0.15), "task": "classify"})
    pd.concat([other, other.assign(task="segment", error=0.5)]).to_csv(tmp_path / "other.csv", index=False)
    answer = analysis.compare(mine, tmp_path / "other.csv", x="flops", y="error", where="task=classify", levels=[0.25])
    assert answer.at[0].multiplier == pytest.approx(math.exp(-0.1 / 0.15))
    with pytest.raises(UserError, match="flop"):
        analysis.compare(mine, other, x="flop", y="error")
    with pytest.raises(UserError, match="first recipe"):
        analysis.compare(mine[:2], other, x="flops", y="error")


def test_units_of_compute_and_error_do_not_matter() -> None:
    """FLOPs or PFLOPs, fractions or per cent: the multiplier is a ratio."""
    rng = np.random.default_rng(0)
    x = np.geomspace(1, 100, 6)
    a, b = (law(x, c, 0.15) * np.exp(0.02 * rng.standard_normal(6)) for c in (-1.0, -1.1))
    plain = compare(Recipe(x, a), Recipe(x, b), levels=[0.25]).at[0]
    scaled = compare(Recipe(x * 1e15, a * 100), Recipe(x * 1e15, b * 100), levels=[25.0]).at[0]
    assert (scaled.multiplier, scaled.low, scaled.high) == pytest.approx((plain.multiplier, plain.low, plain.high))


def test_exponents_are_scipy_s_and_their_difference_is_tested() -> None:
    """Slopes of log-log regression; equal exponents are not told apart, different ones are."""
    rng = np.random.default_rng(1)
    x = np.geomspace(1, 1000, 8)
    a, b, c = (law(x, -1.0, slope) * np.exp(0.01 * rng.standard_normal(8)) for slope in (0.15, 0.15, 0.25))
    same, other = compare(Recipe(x, a), Recipe(x, b)), compare(Recipe(x, a), Recipe(x, c))
    assert same.exponents[0] == pytest.approx(-stats.linregress(np.log(x), np.log(a)).slope)
    assert same.p_exponents > 0.05
    assert other.p_exponents < 1e-6


@pytest.mark.parametrize(("runs", "noise"), [(4, 0.03), (8, 0.1)])
def test_intervals_hold_the_truth_as_often_as_they_say(runs: int, noise: float) -> None:
    """90 % intervals of 200 simulated comparisons: 85 to 97 % hold it (three standard errors about 91 %)."""
    rng = np.random.default_rng(2)
    x, level = np.geomspace(1, 100, runs), math.exp(-1.4)
    truth = math.exp((-1.1 + 1.4) / 0.2 - (-1.0 + 1.4) / 0.15)
    held = 0
    for seed in range(200):
        a, b = (law(x, *recipe) * np.exp(noise * rng.standard_normal(runs)) for recipe in ((-1.0, 0.15), (-1.1, 0.2)))
        found = compare(Recipe(x, a), Recipe(x, b), levels=[level], confidence=0.9, seed=seed).at[0]
        held += found.low <= truth <= found.high
    assert 170 <= held <= 194


def test_errors_that_do_not_fall_bound_nothing() -> None:
    """A recipe whose error is flat reaches no lower level: the interval is open rather than wrong."""
    x = np.geomspace(1, 100, 6)
    flat = 0.4 * np.exp(0.05 * np.array([1, -1, 1, -1, 1, -1.0]))
    found = compare(Recipe(x, law(x, -1.0, 0.15)), Recipe(x, flat), levels=[0.3]).at[0]
    assert found.high == math.inf


def test_recipes_that_cannot_be_compared_are_refused() -> None:
    """Too few runs, values without a logarithm, no error in common: each is said."""
    x = np.geomspace(1, 100, 4)
    with pytest.raises(ValueError, match="first recipe"):
        compare(Recipe(x[:2], x[:2]), Recipe(x, x))
    with pytest.raises(ValueError, match="second recipe"):
        compare(Recipe(x, x), Recipe(x, x - 1))
    with pytest.raises(ValueError, match="above 0"):
        compare(Recipe(x, law(x, -1.0, 0.1)), Recipe(x, law(x, -1.0, 0.1)), levels=[0.0])
    with pytest.raises(ValueError, match="in common"):
        compare(Recipe(x, law(x, 3.0, 0.1)), Recipe(x, law(x, -3.0, 0.1)))


def test_sizes_of_several_lengths_are_told_apart_no_more_often_than_said() -> None:
    """Two grids of one law, seven sizes with offsets of their own: exponents differ in 5 % of pairs, not in 20 %.

    The p value is that of ``difference``; 200 pairs, limits three standard errors away from 5 and from 20 %.
    """
    rng = np.random.default_rng(3)
    size = np.repeat(np.arange(7), 3)
    x = np.exp(size * math.log(2.5) + np.tile(np.arange(3), 7) * math.log(4.0) + 1e-4 * size)
    found = {"by size": 0, "independent": 0}
    for _ in range(200):
        errors = [law(x, -1.0, 0.05) * np.exp(0.1 * rng.standard_normal(7)[size]) for _ in range(2)]
        errors = [error * np.exp(0.05 * rng.standard_normal(len(x))) for error in errors]
        for name, groups in (("by size", size), ("independent", None)):
            fits = [fit_power_law(x, error, groups) for error in errors]
            assert isinstance(fits[0], PowerLawFit)
            assert isinstance(fits[1], PowerLawFit)
            found[name] += 0 not in difference(fits[0], fits[1])
    assert found["by size"] <= 20
    assert found["independent"] >= 24


def test_the_p_value_is_welch_s_and_groups_reach_the_multiplier() -> None:
    """By hand from the two laws' errors and degrees of freedom; groups widen the multiplier's interval."""
    rng = np.random.default_rng(4)
    size = np.repeat(np.arange(5), 3)
    x = np.exp(size + np.tile(np.arange(3), 5) * 1.4 + 1e-4 * size)
    recipes = [
        Recipe(x, law(x, -1.0, b) * np.exp(0.1 * rng.standard_normal(5)[size] + 0.01 * rng.standard_normal(15)), size)
        for b in (0.1, 0.2)
    ]
    answer = compare(*recipes)
    a, b = (fit_power_law(*recipe) for recipe in recipes)
    assert isinstance(a, PowerLawFit)
    assert isinstance(b, PowerLawFit)
    variances = [fit.errors.slope for fit in (a, b)]
    degrees = sum(variances) ** 2 / sum(v**2 / fit.errors.degrees for v, fit in zip(variances, (a, b), strict=True))
    expected = 2 * stats.t.sf(abs(a.b - b.b) / math.sqrt(sum(variances)), degrees)
    assert answer.p_exponents == pytest.approx(expected)
    plain = compare(*(recipe._replace(groups=None) for recipe in recipes))
    wider = [at.high / at.low > other.high / other.low for at, other in zip(answer.at, plain.at, strict=True)]
    assert all(wider)


def test_errors_that_rise_or_stay_are_no_accident() -> None:
    """Over nearly equal compute a rising error has no value at x = 1; a level error has no slope and bounds nothing."""
    x = np.geomspace(1, 100, 4)
    other = Recipe(x, law(x, -1.0, 0.1))
    with pytest.raises(ValueError, match="first recipe"):
        compare(Recipe(np.array([1, 1.01, 1.02]) * 1e20, [0.3, 0.4, 0.45]), other, levels=[0.35])
    found = compare(Recipe(np.exp([-1.0, 0.0, 1.0]), [0.5, 0.4, 0.5]), other, levels=[0.35]).at[0]
    assert (found.low, found.high) == (0, math.inf)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no published tables in {REFERENCE}")
def test_clip_and_mammut_of_laion() -> None:
    """Within a fifth of the ratio read off the interpolated Pareto fronts, which are not quite straight."""
    table = pd.read_csv(REFERENCE / "laion_clip_mammut_ade20k" / "segmentation_results.csv")
    table = table.assign(error=1 - table.imagenet1k_zeroshot_acc1)[table.gflops_total >= 1e9]
    fronts = []
    for name in ("clip", "mammut"):
        rows = table[table.namespace == name].sort_values("gflops_total")
        rows = rows[rows.error < rows.error.cummin().shift(fill_value=math.inf)]
        fronts.append(rows[(rows.error > 0.25) & (rows.error < 0.55)])
    answer = compare(*(Recipe(front.gflops_total, front.error) for front in fronts), levels=[0.4, 0.35, 0.3])
    for found in answer.at:
        first, second = (
            np.interp(-math.log(found.level), -np.log(front.error), np.log(front.gflops_total)) for front in fronts
        )
        assert found.multiplier == pytest.approx(math.exp(second - first), rel=0.2)
