"""The status of each task of a study, from its own files: state, step, speed, time left, and why it failed."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nepa_scale.config.registry import PRETRAIN, TASKS
from nepa_scale.run_dir.status import Status, is_in_use, read_status
from sweeps.jobs.task import CANCELLED
from sweeps.plan.plan import Plan, PlannedRun, run_dir

TAIL_BYTES = 16_384
LOST = "lost"
LOOKS = 100
"""What a pre-training will end with is forecast anew whenever another of so many parts of it is done."""


@dataclass(frozen=True)
class TaskStatus:
    """The status of one task. ``eta_seconds`` is the time left at the present speed; None stands for unknown."""

    run_id: str
    label: str
    task: str
    state: str
    """As in ``status.json``; or ``lost``, where that says submitted or running, but no process or job does the task."""
    step: int
    steps_total: int
    attempt: int
    loss: float | None
    images_per_second: float | None
    eta_seconds: float | None
    reason: str | None
    updated_at: str | None
    expected: dict[str, Any] | None = None
    """Of a pre-training under way: the ``loss`` and ``skill`` that it is expected to end with, each a ``value`` with
    its ``interval`` and ``confidence``, or the ``reason`` why none can be told yet."""

    @property
    def key(self) -> str:
        """run_id/task."""
        return f"{self.run_id}/{self.task}"


def as_lost(task: TaskStatus, reason: str) -> TaskStatus:
    """``task`` marked as lost, for ``reason``."""
    return dataclasses.replace(task, state=LOST, eta_seconds=None, reason=reason)


def with_expected(task: TaskStatus, study_dir: Path) -> TaskStatus:
    """``task`` with what it is expected to end with, if it is a pre-training under way."""
    if task.task != PRETRAIN.name or task.state != "running" or not task.step or not task.steps_total:
        return task
    done = LOOKS * task.step // task.steps_total
    return dataclasses.replace(task, expected=_expected(run_dir(study_dir, task.run_id), task.steps_total, done))


@functools.cache
def _expected(directory: Path, steps: int, done: int) -> dict[str, Any]:
    from analysis.forecast.scheduled import expected_end  # pandas and scipy, which the other answers do without

    return expected_end(directory, steps).as_json()


def task_statuses(plan: Plan, study_dir: Path) -> list[TaskStatus]:
    """The status of every task of ``plan``, in its order."""
    return [_task_status(run, task, run_dir(study_dir, run.run_id) / task) for run in plan.runs for task in run.tasks]


def _task_status(run: PlannedRun, task: str, task_dir: Path) -> TaskStatus:
    status = read_status(task_dir)
    if status is None:
        return TaskStatus(run.run_id, run.label, task, "planned", 0, 0, 0, None, None, None, None, None)
    record = last_record(task_dir / "metrics.jsonl") if status.step else {}
    speed = _number(record, "images_per_second")
    return TaskStatus(
        run_id=run.run_id,
        label=run.label,
        task=task,
        state=status.state,
        step=status.step,
        steps_total=status.steps_total,
        attempt=status.attempt,
        loss=_number(record, "loss"),
        images_per_second=speed,
        eta_seconds=_time_left(status, record, speed) if status.state == "running" else None,
        reason=status.error,
        updated_at=status.updated_at,
    )


def not_begun(plan: Plan, study_dir: Path, run_ids: Collection[str]) -> set[str]:
    """Those of ``run_ids`` of which no task has taken a step, waits or runs, and on which no other run rests.

    Tasks that the plan does not have count, too, as a run's folder may have more of them.
    """
    folders = {run_id: run_dir(study_dir, run_id) for run_id in run_ids}
    idle = {run_id for run_id, folder in folders.items() if not any(_has_begun(folder / task) for task in TASKS)}
    others = [run for run in plan.runs if run.run_id not in idle]
    while needed := idle & {owner for run in others for owner in (run.pretrained_by, run.branched_from) if owner}:
        idle -= needed
        others += [run for run in plan.runs if run.run_id in needed]
    return idle


def _has_begun(task_dir: Path) -> bool:
    status = read_status(task_dir)
    if status is None or (status.step == 0 and (status.state == "planned" or status.error == CANCELLED)):
        return is_in_use(task_dir)
    return True


def last_record(path: Path) -> dict[str, Any]:
    """The last complete training record of a metrics file, read from its end; {} without one."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return {}
    for line in reversed(lines):
        try:
            record: dict[str, Any] = json.loads(line)
        except ValueError:  # the line is incomplete
            continue
        if "images_per_second" in record:
            return record
    return {}


def _time_left(status: Status, record: dict[str, Any], speed: float | None) -> float | None:
    seen = _number(record, "images_seen")
    if not speed or not seen or not record.get("step"):
        return None
    return (status.steps_total - status.step) * seen / record["step"] / speed


def _number(record: dict[str, Any], key: str) -> float | None:
    value = record.get(key)
    return float(value) if isinstance(value, int | float) else None
