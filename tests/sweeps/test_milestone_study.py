"""A study in which pre-training misses a milestone: what is said of it, and what is left of it in the results."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.study.records import read_study
from nepa_scale.data.prepare.digits import write_digits

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.slow
def test_a_missed_milestone_is_named_and_leaves_no_result(run_process: Run, tmp_path: Path) -> None:
    """The pre-training fails as such, its fine-tuning is not started, the scratch control is finished and counts."""
    write_digits(tmp_path / "data", num_train=64, num_validation=40, image_size=48, shard_size=32)
    words = (
        *("grid=model_size", "study.sizes=[femto]", "study.tasks=[pretrain,classify]", "data.root=data"),
        *("pretrain.steps=3", "pretrain.batch_size=16", "classify.steps=1", "classify.batch_size=16"),
        *("study_dir=out", "log.tensorboard=false", "pretrain.milestones={2: {skill: 0.99}}"),
    )
    done = run_process("launch.py", *words)
    assert done.returncode == 1, done.stderr
    shown = run_process("status.py", "out").stdout
    assert "failed(milestone) 2/3" in shown
    assert "1 failed(milestone)" in shown
    rows = read_study(tmp_path / "out").table.set_index(["init", "task"])
    assert rows["state"].to_dict() == {
        ("pretrain", "pretrain"): "failed",
        ("pretrain", "classify"): "failed",
        ("scratch", "classify"): "finished",
    }
    assert rows.loc[("pretrain", "pretrain"), "error"].startswith("milestone: skill is ")
    assert rows.loc[("pretrain", "classify"), "error"] == "not started: pretrain failed"
    assert rows["metrics.top1"].notna().to_list() == [False, False, True]
