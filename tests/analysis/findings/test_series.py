"""Where fine-tuning starts: runs from other weights count, and controls from scratch are found by their settings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from study_files import result, write_json, write_task

from analysis.findings.comparison import comparison
from analysis.findings.scaling import find
from analysis.findings.series import CLASSIFICATION, COMPUTE, OTHER, PARAMETERS, SCRATCH, series
from analysis.report import main
from analysis.reporting.figures.plots import error_plot
from analysis.reporting.figures.probe_plots import layers_plot
from analysis.study.records import read_study

MakeStudy = Callable[..., Path]
SIZES = {"nano": 25_000, "micro": 98_304, "mini": 393_216}


def from_weights(path: Path, folder: str) -> Path:
    """Let the pretrained runs of a study start from the weights in ``folder`` instead."""
    for pretraining in path.glob("runs/*/pretrain"):
        shutil.rmtree(pretraining)
    for file in path.glob("runs/*-pretrain-*/*/result.json"):
        file.write_text(file.read_text().replace('"init": "pretrain"', f'"init": {json.dumps(folder)}'))
    plan = json.loads((path / "plan.json").read_text())
    for run in plan["runs"]:
        if run["init"] == "pretrain":
            run["init"] = folder
            del run["tasks"]["pretrain"]
    write_json(path / "plan.json", plan)
    return path


def test_runs_from_other_weights_are_answered_as_pretrained_ones_are(make_study: MakeStudy) -> None:
    """The same scores give the same laws, gains and margins; only the compute of the weights is not known."""
    own = find(read_study(make_study(sizes=SIZES, name="own")))
    study = read_study(from_weights(make_study(sizes=SIZES, name="others"), "weights/base"))
    found = find(study)
    spared = [one for one in own if "FLOPs" not in one.question and "skill" not in one.question]
    assert [(one.verdict, one.detail) for one in found] == [(one.verdict, one.detail) for one in spared]
    asked = [one.question for one in found if "of runs from scratch" not in one.question]
    assert len(asked) == len(found) - 2 and all("other weights" in question for question in asked)
    compared = comparison(study, CLASSIFICATION)
    assert compared.rows["pretrained"].isna().all() and compared.leading.notna().all()
    assert len(series(study, CLASSIFICATION, PARAMETERS, OTHER).points) == len(SIZES)
    assert "Other weights, 3 runs" in error_plot(study, CLASSIFICATION, PARAMETERS).alt
    assert not study.notes


@pytest.mark.slow(seconds=5)
def test_own_and_other_weights_stand_beside_each_other(make_study: MakeStudy) -> None:
    """A study of both has a column for each, and two folders under one label are two labels."""
    path = make_study(sizes=SIZES)
    for folder, top1 in (("weights/a", 0.5), ("weights/b", 0.25)):
        run_id = f"nano-{folder[-1]}"
        metrics = {"top1": top1, "top1_majority": 0.1}
        write_task(path, run_id, "classify", result(run_id, "classify", folder, "nano", 25_000, 0, metrics))
    rows = comparison(read_study(path), CLASSIFICATION).rows
    assert rows["other weights"].dropna().to_dict() == {"nano from weights/a": 0.5, "nano from weights/b": 0.25}
    assert rows["pretrained"].notna().sum() == 3
    assert rows["scratch"].notna().all()
    assert main([str(path)]) == 0


@pytest.mark.parametrize("init", ["weights/base", "/home/x [y]/<b>$w_1$"])
def test_a_study_of_probes_alone_has_a_report(tmp_path: Path, init: str) -> None:
    """Probes of other weights are drawn and listed; nothing of the study needs a pretraining."""
    layers = {f"linear_mean/block{i}": 0.3 + i / 10 for i in range(1, 4)}
    metrics = {"linear_last": 0.6, "linear_mean": 0.6, "top1_majority": 0.1, **layers}
    for seed in (0, 1):
        write_task(tmp_path, f"r{seed}", "probe", result(f"r{seed}", "probe", init, "base", 85_000_000, seed, metrics))
    study = read_study(tmp_path)
    drawn = layers_plot(study)
    assert drawn is not None and "base, from other weights" in drawn.alt
    files = [tmp_path / "a.md", tmp_path / "a.tex"]
    assert main([str(tmp_path), f"markdown={files[0]}", f"latex={files[1]}"]) == 0
    assert "Linear probes beside the paper" in files[0].read_text() + (tmp_path / "report.html").read_text()


def write_run(
    path: Path, name: str, init: str, settings: Mapping[str, Any], scores: Mapping[str, float]
) -> dict[str, Any]:
    """Write a run with its tasks, as its plan has it: a control is labelled by the settings that it uses."""
    used = {key: value for key, value in settings.items() if init == "pretrain" or not key.startswith("pretrain.")}
    label = " ".join(str(value) if key == "model.size" else f"{key}={value}" for key, value in used.items())
    for task, score in scores.items():
        metrics = {"skill": score} if task == "pretrain" else {"top1": score, "top1_majority": 0.1}
        outcome = result(name, task, init, str(settings["model.size"]), SIZES[settings["model.size"]], 0, metrics)
        outcome["config"] |= {"run_dir": name, "pretrain.base_lr": 0.001, "classify.base_lr": 0.001, **settings}
        outcome["flops_train"] *= settings.get("pretrain.epochs", 1)
        write_task(path, name, task, outcome)
    return {"run_id": name, "label": label, "init": init, "values": used, "tasks": {task: {} for task in scores}}


def write_grid(path: Path, key: str, values: list[float]) -> Path:
    """A study over sizes and ``key``, with a control for every set of settings that a control uses."""
    runs = {}
    for size in SIZES:
        for value in values:
            settings = {"model.size": size, key: value}
            name = f"{size}-{value:g}"
            scores = {"pretrain": 0.5, "classify": 0.6 + value}
            runs[name] = write_run(path, name, "pretrain", settings, scores)
            control = f"{size}-scratch" if key.startswith("pretrain.") else f"{name}-scratch"
            default = {"model.size": size, key: 0.001} if key.startswith("pretrain.") else settings
            top1 = 0.5 if key.startswith("pretrain.") else 0.5 + value
            runs[control] = write_run(path, control, "scratch", default, {"classify": top1})
    axes = ["model.size", key, "seed"]
    plan = {"schema": 1, "study": "s", "grid": "g", "axes": axes, "runs": list(runs.values())}
    write_json(path / "plan.json", plan)
    return path


@pytest.mark.slow(seconds=4)
def test_one_control_serves_all_settings_that_it_does_not_use(tmp_path: Path) -> None:
    """A grid over a pretraining rate has one control per size: it stands beside each rate, and counts once."""
    study = read_study(write_grid(tmp_path, "pretrain.base_lr", [0.01, 0.03]))
    compared = comparison(study, CLASSIFICATION)
    assert sorted(compared.rows.index) == sorted(f"{s} pretrain.base_lr={v}" for s in SIZES for v in (0.01, 0.03))
    assert (compared.rows["scratch"] == 0.5).all()
    (gain,) = [one for one in find(study) if "against training from scratch" in one.question]
    assert gain.verdict == "Yes" and "n = 3 controls" in gain.answer and "Better at 6 of 6" in gain.detail
    assert main([str(tmp_path)]) == 0


def test_a_setting_of_fine_tuning_has_its_own_controls(tmp_path: Path) -> None:
    """A grid over a fine-tuning rate pairs each rate with the control that has it."""
    study = read_study(write_grid(tmp_path, "classify.base_lr", [0.01, 0.03]))
    compared = comparison(study, CLASSIFICATION)
    assert (compared.rows["pretrained"] - compared.rows["scratch"]).to_list() == pytest.approx([0.1] * 6)
    (gain,) = [one for one in find(study) if "against training from scratch" in one.question]
    assert "n = 6 settings" in gain.answer


def test_a_control_stands_at_the_compute_of_its_partners(tmp_path: Path) -> None:
    """Where these spent one amount of pretraining; where they differ, it has no place on that axis."""
    placed = series(
        read_study(write_grid(tmp_path / "one", "pretrain.base_lr", [0.01])), CLASSIFICATION, COMPUTE, SCRATCH
    )
    assert len(placed.points) == 3
    two = read_study(write_grid(tmp_path / "two", "pretrain.epochs", [0.01, 0.03]))
    assert series(two, CLASSIFICATION, COMPUTE, SCRATCH).points.empty
