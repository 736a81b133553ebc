"""A small study whose arms are tried at two rates, from the command to the report, whole and interrupted."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from several_trainings import train_all

from analysis.report import main
from analysis.reporting.build import answer
from nepa_scale.data.prepare.digits import write_digits
from sweeps.plan import plan

Run = Callable[..., "subprocess.CompletedProcess[str]"]
RATES = (0.01, 0.05)
SIZES = tuple(f"{task}.{key}" for task in ("pretrain", "classify", "segment") for key in ("steps=2", "batch_size=8"))


@pytest.mark.slow
def test_each_arm_is_trained_at_each_rate_and_reported_at_its_best(run_process: Run, tmp_path: Path) -> None:
    """One pre-training, both arms at both rates of classification and at one of segmentation; one row of each chosen.

    The command again has nothing to do; with a rate more and a task lost it does those two, and nothing else anew.
    """
    write_digits(tmp_path / "data", num_train=64, num_validation=40, image_size=32, shard_size=32)
    words = (
        *("grid=model_size", "study.sizes=[femto]", "study.tasks=[pretrain,classify,segment]", "data.root=data"),
        *("study_dir=out", "log.tensorboard=false", "log.pictures=0", "classify.tuning_images=20"),
        *("segment.tuning_images=10", "study.tuned.segment.base_lr=[0.02]", *SIZES),
    )
    done = run_process("launch.py", *words, f"study.tuned.classify.base_lr={list(RATES)}")
    assert done.returncode == 0, done.stdout + done.stderr
    found = answer(tmp_path / "out")
    tried = found.study.tried
    assert tried["state"].eq("finished").all()
    assert tried["task"].value_counts().to_dict() == {"classify": 4, "segment": 2, "pretrain": 1}
    for start in ("pretrain", "scratch"):
        rows = tried[(tried["task"] == "classify") & (tried["init"] == start)]
        assert sorted(rows["config.classify.base_lr"]) == list(RATES)
        assert rows.loc[rows["chosen"], "metrics.tuning_top1"].tolist() == [rows["metrics.tuning_top1"].max()]
    assert tried.loc[tried["task"] == "segment", "metrics.tuning_miou"].notna().all()
    assert tried.loc[tried["task"] == "classify", "unique_images"].le(44).all()
    assert len(found.study.table) == 1 + 2 + 2

    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").glob("*/*/result.json")}
    lost = next(path for path in first if path.parent.name == "segment")
    shutil.rmtree(lost.parent)
    done = run_process("launch.py", *words, f"study.tuned.classify.base_lr={[*RATES, 0.002]}")
    assert done.returncode == 0, done.stdout + done.stderr
    again = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").glob("*/*/result.json")}
    assert len(again) == len(first) + 2
    assert {path for path in first if again[path] != first[path]} == {lost}
    planned = plan.load_study(tmp_path / "out")
    assert sum("pretrain" in each.tasks for each in planned.runs) == 1
    assert main([str(tmp_path / "out")]) == 0
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    assert table.groupby(["task", "init"])["chosen"].sum().eq(1).all()


@pytest.mark.slow(seconds=3)
def test_two_ranks_have_the_score_of_one(tmp_path: Path) -> None:
    """Equal scores on tuning images on one process and on two, fine-tuned from pre-trained weights and from scratch."""
    write_digits(tmp_path / "data", num_train=64, num_validation=40, image_size=32, shard_size=32)
    words = ["model.size=femto", f"data.root={tmp_path / 'data'}", "log.tensorboard=false", "log.pictures=0"]
    tuned = ["task=classify", "classify.base_lr=0.5", "classify.tuning_images=31"]
    scores = []
    for ranks in (1, 2):
        run, scratch = tmp_path / f"run{ranks}", tmp_path / f"scratch{ranks}"
        commands = [["task=pretrain", f"run_dir={run}"], [*tuned, f"run_dir={run}"]]
        commands.append([*tuned, "init=scratch", f"run_dir={scratch}"])
        train_all([[*words, *SIZES[:4], *command] for command in commands], world_size=ranks)
        results = [folder / "classify" / "result.json" for folder in (run, scratch)]
        scores.append([json.loads(path.read_text())["metrics"]["tuning_top1"] for path in results])
    assert scores[0] == pytest.approx(scores[1], abs=1e-9)
