"""What the page says of several objectives, and of the skill of pre-training as a predictor of fine-tuning."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from law_studies import StudySpec, write_study
from scipy import stats
from study_files import result, write_json, write_task

from analysis.findings.scaling import find, objectives, of_objectives, transfer, transfer_points
from analysis.findings.series import CLASSIFICATION, COMPUTE, PARAMETERS, PRETRAINED, SCRATCH, SHORTFALL, series
from analysis.fit.student import NoFit, Slope, slope_given
from analysis.laws.law import Array
from analysis.reporting.render import render
from analysis.study.records import Study, read_study

PARAMS = (20_000, 80_000, 320_000, 1_280_000, 5_120_000)
FACTOR = 1.5  # of the FLOPs of masked pixels, which compute more


def write_objectives(path: Path, exponents: dict[str, float], noise: float = 0.01, seeds: int = 1) -> Path:
    """Five sizes with each objective, whose error is C^-b about 1e14 FLOPs; controls from scratch of each size. Seeds
    have equal errors."""
    random, planned = np.random.default_rng(0), []
    for name, b in exponents.items():
        for params in PARAMS:
            flops = 1e9 * params * (FACTOR if name == "masked_pixels" else 1)
            error = 0.3 * (flops / 1e14) ** -b * float(np.exp(random.normal(0, noise)))
            for seed in range(seeds):
                planned += _runs(path, name, params, seed, flops, error)
    axes = ["pretrain.objective", "model.size", "seed"]
    write_json(path / "plan.json", {"schema": 1, "study": "s", "grid": "objectives", "axes": axes, "runs": planned})
    return path


def _runs(path: Path, name: str, params: int, seed: int, flops: float, error: float) -> list[dict[str, Any]]:
    """Write a run, and its control where it is of the first objective; returns them as planned."""
    size, run_id = f"s{params}", f"{name}-{params}-{seed}"
    for task, metrics in (("pretrain", {"skill": 1 - error}), ("classify", _classified(error))):
        outcome = result(run_id, task, "pretrain", size, params, seed, metrics)
        config = outcome["config"] | {"pretrain.objective": name}
        write_task(path, run_id, task, outcome | {"flops_train": flops, "config": config})
    values: dict[str, Any] = {"model.size": size, "seed": seed}
    own = values if name == "next_embedding" else {**values, "pretrain.objective": name}
    run = {"run_id": run_id, "label": f"{name} {size}", "init": "pretrain", "tasks": {}, "values": own}
    if name != "next_embedding":
        return [run]
    scratch = f"{run_id}-scratch"
    control = result(scratch, "classify", "scratch", size, params, seed, _classified(min(0.95, 1.2 * error)))
    write_task(path, scratch, "classify", control)
    return [run, {**run, "run_id": scratch, "init": "scratch", "values": values}]


def _classified(error: float) -> dict[str, float]:
    return {"top1": 1 - error, "top5": 1 - error / 4, "loss": 3 * error, "top1_majority": 0.1}


def test_objectives_are_compared_at_equal_compute(tmp_path: Path) -> None:
    """Of equal laws neither scales better, and masked pixels take as much compute; of a flatter one it is told."""
    exponents = {"next_embedding": 0.12, "masked_pixels": 0.12, "next_pixels": 0.06}
    study = read_study(write_objectives(tmp_path / "study", exponents))
    masked, pixels = objectives(study)
    assert masked.question == (
        "Does predicting next embeddings scale better than masked pixels, by the classification error?"
    )
    assert (masked.verdict, pixels.verdict) == ("Not shown", "Yes")
    assert "masked pixels take 1.0" in masked.answer or "masked pixels take 0.9" in masked.answer
    assert pixels.p is not None
    assert pixels.p < 1e-3


def test_seeds_are_no_runs_of_their_own(tmp_path: Path) -> None:
    """Three seeds that came to the same are no more evidence for a difference than one."""
    exponents = {"next_embedding": 0.12, "next_pixels": 0.09}
    (one,), (three,) = (
        objectives(read_study(write_objectives(tmp_path / str(seeds), exponents, seeds=seeds))) for seeds in (1, 3)
    )
    assert one.p == pytest.approx(three.p, rel=1e-6)


def test_laws_of_the_page_are_of_one_objective(tmp_path: Path) -> None:
    """Points of others are in no law of error, skill or compute; controls from scratch have no objective."""
    study = read_study(write_objectives(tmp_path / "study", {"next_embedding": 0.12, "masked_pixels": 0.3}, noise=0))
    for target in (CLASSIFICATION, SHORTFALL):
        points = series(study, target, COMPUTE).points
        assert len(points) == len(PARAMS)
        assert points["run_id"].str.startswith("next_embedding").all()
    assert len(series(study, CLASSIFICATION, COMPUTE, SCRATCH).points) == len(PARAMS)
    other = series(study, CLASSIFICATION, COMPUTE, PRETRAINED, "masked_pixels")
    assert other.fit.b == pytest.approx(0.3, abs=1e-6)  # type: ignore[union-attr]
    assert find(study)


@pytest.mark.slow(seconds=3)
def test_page_draws_the_objectives(tmp_path: Path) -> None:
    """One figure has the law of each; a study of one objective has neither figure nor question."""
    study = read_study(write_objectives(tmp_path / "both", {"next_embedding": 0.12, "next_pixels": 0.1}))
    page = render(study, objectives(study))
    assert "the power law of each objective" in page
    assert list(of_objectives(study, CLASSIFICATION)) == ["next embeddings", "next pixels"]
    alone = read_study(write_objectives(tmp_path / "alone", {"next_embedding": 0.12}))
    assert of_objectives(alone, CLASSIFICATION) == {}
    assert objectives(alone) == []


def test_a_law_of_skill_is_of_one_loss(tmp_path: Path) -> None:
    """Of variants of a loss the published one is fitted: a higher skill under another distance is no better one."""
    path = write_objectives(tmp_path / "study", {"next_embedding": 0.12}, noise=0)
    plan = json.loads((path / "plan.json").read_text())
    for planned in [run for run in plan["runs"] if run["init"] == "pretrain"]:
        run_id = f"mse-{planned['run_id']}"
        shutil.copytree(path / "runs" / planned["run_id"], path / "runs" / run_id)
        for file in (path / "runs" / run_id).glob("*/result.json"):
            outcome = json.loads(file.read_text())
            config = outcome["config"] | {"pretrain.distance": "mse"}
            metrics = {"skill": 0.999} if outcome["task"] == "pretrain" else outcome["metrics"]
            write_json(file, outcome | {"run_id": run_id, "config": config, "metrics": metrics})
        values = planned["values"] | {"pretrain.distance": "mse"}
        plan["runs"].append({**planned, "run_id": run_id, "label": f"mse {planned['label']}", "values": values})
    write_json(path / "plan.json", plan | {"axes": ["pretrain.distance", "model.size"]})
    points = series(read_study(path), SHORTFALL, COMPUTE).points
    assert len(points) == len(PARAMS) and points["run_id"].str.startswith("next_embedding").all()


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
    far = slope_given(x + 1e7, given, y)  # what is too close to a line is judged by the spread, not by the size
    assert isinstance(far, Slope) and far.value == pytest.approx(slope.value, rel=1e-4)
    assert isinstance(slope_given(2 * given + 1, given, y), NoFit)
    assert isinstance(slope_given(x[:3], given[:3], y[:3]), NoFit)
