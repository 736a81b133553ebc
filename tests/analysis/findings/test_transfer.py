"""Whether skill tells the error: the trend put in comes back with its interval, and none is claimed without one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from law_studies import StudySpec, write_study
from scipy import stats
from study_files import result, write_json, write_task

from analysis.findings.series import CLASSIFICATION, PARAMETERS
from analysis.findings.transfer import transfer, transfer_points
from analysis.fit.student import NoFit, Slope, slope_given
from analysis.laws.law import Array
from analysis.study.records import Study, read_study


def study_of(path: Path, shortfall: Array, error: Array) -> Study:
    """A study of one run for each size with these shortfalls of skill [n] and classification errors [n]."""
    planned = []
    for i, (short, wrong) in enumerate(zip(shortfall, error, strict=True)):
        run_id, params = f"s{i}", 10_000 * 4**i
        for task, metrics in (("pretrain", {"skill": 1 - short}), ("classify", {"top1": 1 - wrong})):
            write_task(path, run_id, task, result(run_id, task, "pretrain", run_id, params, 0, metrics))
        planned.append({"run_id": run_id, "label": run_id, "init": "pretrain", "values": {}, "tasks": {}})
    write_json(
        path / "plan.json", {"schema": 1, "study": "s", "grid": "g", "axes": ["model.embed_dim"], "runs": planned}
    )
    return read_study(path)


def test_the_exponent_comes_back_with_students_interval(tmp_path: Path) -> None:
    """Errors as the square root of the shortfall: yes, with the interval scipy's regression gives."""
    shortfall = np.array([0.8, 0.6, 0.5, 0.35, 0.3])
    error = 0.7 * shortfall**0.5 * np.exp([0.01, -0.02, 0.015, -0.01, 0.005])
    (finding,) = transfer(study_of(tmp_path, shortfall, error))
    assert finding.question == "Does the pretraining skill tell the classification error?"
    line = stats.linregress(np.log(shortfall), np.log(error))
    half = stats.t.ppf(0.975, 3) * line.stderr
    assert finding.verdict == "Yes"
    assert (
        f"exponent {line.slope:.3f}, 95\u00a0% interval {line.slope - half:.3f} to {line.slope + half:.3f}"
        in finding.answer
    )
    assert "n = 5 sizes (5 runs)" in finding.answer
    assert f"it has {100 * error[-1]:.1f}\u00a0%" in finding.detail


def test_no_trend_is_claimed_where_the_interval_includes_none(tmp_path: Path) -> None:
    """Errors that go up and down as skill rises: not shown, in the answer's own words."""
    (finding,) = transfer(study_of(tmp_path, np.array([0.8, 0.6, 0.5, 0.4]), np.array([0.5, 0.3, 0.45, 0.4])))
    assert finding.verdict == "Not shown" and "establishes no trend" in finding.answer


def test_errors_that_rise_with_skill_are_a_no(tmp_path: Path) -> None:
    """Skill that comes with larger errors is said to be so."""
    shortfall = np.array([0.8, 0.6, 0.5, 0.4])
    (finding,) = transfer(study_of(tmp_path, shortfall, 0.3 / shortfall * np.exp([0.01, 0, -0.01, 0])))
    assert finding.verdict == "No"


def test_skill_that_only_follows_the_size_is_not_said_to_tell_more(tmp_path: Path) -> None:
    """Both fall with size and their noise is unrelated: yes along the ladder, but no more than the size tells."""
    size = np.arange(6.0)
    shortfall = 0.8 * 0.8**size * np.exp([0.02, -0.02, 0.01, -0.01, 0.02, -0.02])
    error = 0.6 * 0.85**size * np.exp([0.02, 0.01, -0.02, -0.02, 0.01, 0.02])
    (finding,) = transfer(study_of(tmp_path, shortfall, error))
    assert finding.verdict == "Yes" and "it is not shown that skill says more than that" in finding.detail


@pytest.mark.parametrize(
    ("shortfall", "error", "reason"),
    [
        ([0.5, 0.4], [0.5, 0.4], "2 distinct points; this law needs at least 3"),
        ([0.5, 0.4, 0.3, 0.2], [0.5, 0.4, 0.3, 0.0], "is zero at 1 size"),
        ([0.5, 0.5, 0.5, 0.5], [0.5, 0.4, 0.3, 0.2], "1 distinct point"),
    ],
)
def test_what_cannot_be_said_is_not(shortfall: list[float], error: list[float], reason: str, tmp_path: Path) -> None:
    """Too few sizes, no logarithm, equal skill: the reason instead of a number."""
    (finding,) = transfer(study_of(tmp_path, np.array(shortfall), np.array(error)))
    assert finding.verdict == "Cannot say" and reason in finding.answer


def test_seeds_of_a_size_are_one_point_and_scratch_is_none(tmp_path: Path) -> None:
    """Three seeds of five sizes, with controls from scratch: five points of three runs each."""
    points = transfer_points(read_study(write_study(tmp_path, StudySpec(seeds=(0, 1, 2)))), CLASSIFICATION, PARAMETERS)
    assert points["runs"].tolist() == [3] * 5


def test_the_slope_at_given_values_is_that_of_partial_correlation() -> None:
    """t of the coefficient is r sqrt((n - 3) / (1 - r^2)) with the partial correlation r (Fisher 1924)."""
    rng = np.random.default_rng(3)
    given, own, noise = rng.normal(size=(3, 7))
    x, y = given + 0.5 * own, 2 * given + own + 0.3 * noise
    slope = slope_given(x, given, y)
    assert isinstance(slope, Slope)
    xy, xg, yg = (stats.pearsonr(a, b).statistic for a, b in ((x, y), (x, given), (y, given)))
    r = (xy - xg * yg) / np.sqrt((1 - xg**2) * (1 - yg**2))
    half = (slope.interval.high - slope.interval.low) / 2
    assert slope.value / half * stats.t.ppf(0.975, 4) == pytest.approx(r * np.sqrt(4 / (1 - r**2)))
    assert isinstance(slope_given(2 * given + 1, given, y), NoFit)
    assert isinstance(slope_given(x[:3], given[:3], y[:3]), NoFit)
