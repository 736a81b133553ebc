"""How each task of a study stands, from its own files: state, step, speed, time left, and why it failed."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nepa_scale.run_dir.status import Status, read_status
from sweeps.plan.plan import Plan, PlannedRun, run_dir

TAIL_BYTES = 16_384
LOST = "lost"


@dataclass(frozen=True)
class TaskStatus:
    """One task. ``eta_seconds`` is the time left at the present speed; what is not known is None."""

    run_id: str
    label: str
    task: str
    state: str
    """As in ``status.json``, or ``lost``: it says it waits or runs, but nobody works on it."""
    step: int
    steps_total: int
    attempt: int
    loss: float | None
    images_per_second: float | None
    eta_seconds: float | None
    reason: str | None
    updated_at: str | None

    @property
    def key(self) -> str:
        """run_id/task."""
        return f"{self.run_id}/{self.task}"


def as_lost(task: TaskStatus, reason: str) -> TaskStatus:
    """``task``, on which nobody works though it says so."""
    return dataclasses.replace(task, state=LOST, eta_seconds=None, reason=reason)


def task_statuses(plan: Plan, study_dir: Path) -> list[TaskStatus]:
    """Every task of ``plan``, in its order."""
    return [_task_status(run, task, run_dir(study_dir, run.run_id) / task) for run in plan.runs for task in run.tasks]


def _task_status(run: PlannedRun, task: str, task_dir: Path) -> TaskStatus:
    status = read_status(task_dir)
    if status is None:
        return TaskStatus(run.run_id, run.label, task, "planned", 0, 0, 0, None, None, None, None, None)
    row = last_row(task_dir / "metrics.jsonl") if status.step else {}
    speed = _number(row, "images_per_second")
    return TaskStatus(
        run_id=run.run_id,
        label=run.label,
        task=task,
        state=status.state,
        step=status.step,
        steps_total=status.steps_total,
        attempt=status.attempt,
        loss=_number(row, "loss"),
        images_per_second=speed,
        eta_seconds=_time_left(status, row, speed) if status.state == "running" else None,
        reason=status.error,
        updated_at=status.updated_at,
    )


def last_row(path: Path) -> dict[str, Any]:
    """The last whole training row of a metrics file, read from its end; {} without one."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return {}
    for line in reversed(lines):
        try:
            row: dict[str, Any] = json.loads(line)
        except ValueError:  # cut off by a kill, or by where reading began
            continue
        if "images_per_second" in row:
            return row
    return {}


def _time_left(status: Status, row: dict[str, Any], speed: float | None) -> float | None:
    seen = _number(row, "images_seen")
    if not speed or not seen or not row.get("step"):
        return None
    return (status.steps_total - status.step) * seen / row["step"] / speed


def _number(row: dict[str, Any], key: str) -> float | None:
    value = row.get(key)
    return float(value) if isinstance(value, int | float) else None
