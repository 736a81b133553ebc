"""A plan's estimates beside what happened: time, FLOPs and memory of the tasks that are finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from nepa_scale.utils.files import read_json
from sweeps.follow.display import table
from sweeps.plan.plan import Plan, PlannedTask, run_dir
from sweeps.plan.units import duration_text


@dataclass(frozen=True)
class Outcome:
    """A finished task: what was planned of it, and what its result says. ``seconds`` include its start-up."""

    task: str
    planned: PlannedTask
    seconds: float
    flops: int
    memory_bytes: int


def outcomes(plan: Plan, study_dir: Path) -> list[Outcome]:
    """Every task of ``plan`` that has a result."""
    found = []
    for run in plan.runs:
        for name, planned in run.tasks.items():
            try:
                result = read_json(run_dir(study_dir, run.run_id) / name / "result.json")
            except (FileNotFoundError, ValueError):
                continue
            seconds = result["wall_seconds"] + (result.get("startup_seconds") or 0.0)
            found.append(Outcome(name, planned, seconds, result["flops_train"], result["peak_memory_bytes"]))
    return found


def accuracy_table(found: Sequence[Outcome]) -> Table:
    """Planned against actual, a line for each task and how its time was estimated."""
    shown = table(
        "planned against actual", ("number", "planned", "actual", "of actual", "FLOPs", "memory"), first="task"
    )
    groups: dict[str, list[Outcome]] = {}
    for each in found:
        groups.setdefault(each.task + ("" if each.planned.calibrated else " (not calibrated)"), []).append(each)
    for name, members in groups.items():
        shown.add_row(name, str(len(members)), *_times(members), _flops(members), _memory(members))
    if len(groups) > 1:
        shown.add_row("all", str(len(found)), *_times(found), _flops(found), _memory(found))
    return shown


def _times(members: Sequence[Outcome]) -> tuple[str, str, str]:
    """Planned and actual time, added up, and their ratio."""
    known = [(each.planned.seconds, each.seconds) for each in members if each.planned.seconds is not None]
    actual = sum(each.seconds for each in members)
    if len(known) < len(members):
        return "?", duration_text(actual), "?"
    planned = sum(first for first, _ in known)
    return duration_text(planned), duration_text(actual), f"{planned / actual:.0%}"


def _flops(members: Sequence[Outcome]) -> str:
    """Whether the FLOPs that runs logged are those planned, to the last one."""
    others = sum(each.planned.flops != each.flops for each in members)
    return f"{others} differ" if others else "equal"


def _memory(members: Sequence[Outcome]) -> str:
    """Smallest to largest planned part of the actual peak."""
    parts = [each.planned.memory_bytes / each.memory_bytes for each in members if each.memory_bytes]
    return f"{min(parts):.0%} to {max(parts):.0%}" if parts else "?"
