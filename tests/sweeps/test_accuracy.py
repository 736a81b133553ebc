"""Planned against actual."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nepa_scale.utils.files import write_json
from sweeps.follow.display import accuracy_table, outcomes
from sweeps.plan.plan import Plan, PlannedRun, PlannedTask

TASK = PlannedTask(1, 1, 1, flops=1000, memory_bytes=90, seconds=60.0, calibrated=True)
RUNS = tuple(PlannedRun(name, name, "pretrain", {}, {"pretrain": TASK, "probe": TASK}) for name in ("a", "b"))
PLAN = Plan("demo", "model_size", ("model.size",), RUNS)
RESULT = {"wall_seconds": 70.0, "startup_seconds": 10.0, "flops_train": 1000, "peak_memory_bytes": 100}


def rows(plan: Plan, study_dir: Path) -> list[str]:
    """The lines of the table, without title and heading."""
    console = Console(file=io.StringIO(), width=120)
    console.print(accuracy_table(outcomes(plan, study_dir)))
    file = console.file
    lines = file.getvalue().splitlines() if isinstance(file, io.StringIO) else []
    return [" ".join(line.split()) for line in lines[2:]]


def finish(study_dir: Path, run: str, task: str, **changes: Any) -> None:
    """Write the result of a task."""
    write_json(study_dir / "runs" / run / task / "result.json", RESULT | changes)


def test_finished_tasks_alone_are_compared(tmp_path: Path) -> None:
    """Time counts start-up and adds up by task; the others wait for their results."""
    assert outcomes(PLAN, tmp_path) == []
    finish(tmp_path, "a", "pretrain")
    finish(tmp_path, "b", "pretrain", wall_seconds=30.0, peak_memory_bytes=75)
    assert rows(PLAN, tmp_path) == ["pretrain 2 2.0 min 2.0 min 100% equal 90% to 120%"]


def test_one_flop_more_is_told(tmp_path: Path) -> None:
    """FLOPs are equal or they are not."""
    finish(tmp_path, "a", "pretrain", flops_train=1001)
    finish(tmp_path, "b", "probe")
    assert rows(PLAN, tmp_path) == [
        "pretrain 1 1.0 min 1.3 min 75% 1 differ 90% to 90%",
        "probe 1 1.0 min 1.3 min 75% equal 90% to 90%",
        "all 2 2.0 min 2.7 min 75% 1 differ 90% to 90%",
    ]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"calibrated": False}, "pretrain (not calibrated) 1 1.0 min 1.3 min 75% equal 90% to 90%"),
        ({"seconds": None}, "pretrain 1 ? 1.3 min ? equal 90% to 90%"),
    ],
)
def test_how_times_were_estimated_is_told(tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    """Estimates from FLOPs alone are lines of their own, and unknown ones are no zeros."""
    finish(tmp_path, "a", "pretrain")
    task = dataclasses.replace(TASK, **changes)
    plan = dataclasses.replace(PLAN, runs=(dataclasses.replace(RUNS[0], tasks={"pretrain": task}),))
    assert rows(plan, tmp_path) == [line]


def test_results_of_earlier_versions_have_no_start_up(tmp_path: Path) -> None:
    """Their wall clock alone is compared."""
    finish(tmp_path, "a", "pretrain", startup_seconds=None)
    assert outcomes(PLAN, tmp_path)[0].seconds == 70.0
