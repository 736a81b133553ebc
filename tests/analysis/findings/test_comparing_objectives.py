"""The comparison of objectives, on a made-up study whose exponents and compute multiplier are known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from study_files import result, write_json, write_task

from analysis.findings.objectives import objectives, of_objectives
from analysis.findings.scaling import find
from analysis.findings.series import CLASSIFICATION, COMPUTE, PRETRAINED, SCRATCH, SHORTFALL, series
from analysis.reporting.render import render
from analysis.study.records import read_study

PARAMS = (20_000, 80_000, 320_000, 1_280_000, 5_120_000)
FACTOR = 1.5  # of the FLOPs of masked pixels, which compute more


def write_objectives(path: Path, exponents: dict[str, float], noise: float = 0.01) -> Path:
    """Five sizes with each objective, whose error is C^-b about 1e14 FLOPs; controls from scratch of each size."""
    random, planned = np.random.default_rng(0), []
    for name, b in exponents.items():
        for params in PARAMS:
            flops = 1e9 * params * (FACTOR if name == "masked_pixels" else 1)
            error = 0.3 * (flops / 1e14) ** -b * float(np.exp(random.normal(0, noise)))
            size, run_id = f"s{params}", f"{name}-{params}"
            for task, metrics in (("pretrain", {"skill": 1 - error}), ("classify", _classified(error))):
                outcome = result(run_id, task, "pretrain", size, params, 0, metrics)
                config = outcome["config"] | {"pretrain.objective": name}
                write_task(path, run_id, task, outcome | {"flops_train": flops, "config": config})
            planned.append({"run_id": run_id, "label": f"{name} {size}", "init": "pretrain", "tasks": {}})
            planned[-1]["values"] = {"model.size": size} | (
                {} if name == "next_embedding" else {"pretrain.objective": name}
            )
            if name == "next_embedding":
                scratch = f"{run_id}-scratch"
                control = result(scratch, "classify", "scratch", size, params, 0, _classified(min(0.95, 1.2 * error)))
                write_task(path, scratch, "classify", control)
                planned.append({**planned[-1], "run_id": scratch, "init": "scratch", "values": {"model.size": size}})
    axes = ["pretrain.objective", "model.size"]
    write_json(path / "plan.json", {"schema": 1, "study": "s", "grid": "objectives", "axes": axes, "runs": planned})
    return path


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
