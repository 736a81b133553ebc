"""Keeping a plan within a budget of device-hours or FLOPs: it is refused, or trimmed by its costliest runs.

The tasks that are still to do count. A run whose pre-training others use is trimmed only after those. A control from
random weights is trimmed with the run that it is the control of.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from nepa_scale.run_dir.run_folder import is_finished
from nepa_scale.utils.errors import ConfigError
from sweeps.plan.plan import Dropped, Plan, PlannedRun, PlannedTask, run_dir
from sweeps.settings.schema import BudgetSettings

HOUR = 3600.0


def excesses(plan: Plan, study_dir: Path, budget: BudgetSettings) -> list[str]:
    """A line for each budget that the ``plan`` exceeds.

    Raises ``ConfigError`` where hours are limited and times are not known.
    """
    lines = []
    for key, limit, cost, unit in _limits(budget):
        total = math.fsum(costs(plan, study_dir, cost).values())
        if total > limit:
            lines.append(
                f"budget.{key}={limit:g}: {total:.3g} {unit} are to do; budget.over=trim leaves out the costliest runs"
            )
    return lines


def trimmed(plan: Plan, study_dir: Path, budget: BudgetSettings) -> Plan:
    """``plan`` without its costliest runs, so that it keeps the ``budget``; of equal runs the later goes first.

    Raises ``ConfigError`` when no run would be left.
    """
    for key, limit, cost, unit in _limits(budget):
        left, reasons, controls = costs(plan, study_dir, cost), dict[str, str](), _controls(plan.runs)
        total = sum(map(Fraction, left.values()))
        costliest = _costliest_first(plan.runs, left, controls)
        while total > limit:
            run_id = next(costliest)
            reasons[run_id] = f"over budget: {left[run_id]:.3g} {unit} of budget.{key}={limit:g}"
            total -= Fraction(left.pop(run_id))
            for control in controls.get(run_id, ()):
                total -= Fraction(left.pop(control, 0.0))
                reasons[control] = "over budget: the control of a run that is not run"
        if not left:
            smallest = min(costs(plan, study_dir, cost).values())
            raise ConfigError([f"budget.{key}={limit:g}: no run fits; the cheapest takes {smallest:.3g} {unit}"])
        plan = _without(plan, reasons)
    return plan


def costs(plan: Plan, study_dir: Path, cost: Callable[[PlannedTask], float]) -> dict[str, float]:
    """{run_id: what its unfinished tasks cost}."""
    return {
        run.run_id: sum(
            cost(task) for name, task in run.tasks.items() if not is_finished(run_dir(study_dir, run.run_id) / name)
        )
        for run in plan.runs
    }


def _limits(budget: BudgetSettings) -> list[tuple[str, float, Callable[[PlannedTask], float], str]]:
    """(key, limit, cost of a task, unit) of each budget that is given."""
    limits: list[tuple[str, float, Callable[[PlannedTask], float], str]] = []
    if budget.device_hours is not None:
        limits.append(("device_hours", budget.device_hours, _device_hours, "device-hours"))
    if budget.flops is not None:
        limits.append(("flops", budget.flops, lambda task: float(task.flops_to_do), "FLOPs"))
    return limits


def _device_hours(task: PlannedTask) -> float:
    seconds = task.device_seconds
    if seconds is None:
        raise ConfigError(["budget.device_hours: times are not known; give cluster.device and cluster.mfu"])
    return seconds / HOUR


def _costliest_first(
    runs: Sequence[PlannedRun], left: Mapping[str, float], controls: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """The run_ids of ``left`` that cost something, costliest first, and of equal ones the later first.

    A run that others need comes after those. A control is left out, unless its run costs nothing.
    """
    todo = {run.run_id: index for index, run in enumerate(runs) if left[run.run_id]}
    owners = {run.run_id: _owners(run) for run in runs if run.run_id in todo}
    needing = Counter(itertools.chain.from_iterable(owners.values()))
    of_runs = {control for run_id in todo for control in controls.get(run_id, ())}
    order = [(-left[run_id], -index, run_id) for run_id, index in todo.items() if not needing[run_id]]
    heapq.heapify(order)
    while order:
        run_id = heapq.heappop(order)[-1]
        if run_id in of_runs:
            continue
        yield run_id
        for gone in (run_id, *controls.get(run_id, ())):
            for owner in owners.get(gone, ()):
                needing[owner] -= 1
                if not needing[owner] and owner in todo:
                    heapq.heappush(order, (-left[owner], -todo[owner], owner))


def _controls(runs: Sequence[PlannedRun]) -> dict[str, list[str]]:
    """{run_id: the run_ids of its controls from random weights}."""
    scratch: dict[tuple[str, str, str], list[str]] = {}
    for run in runs:
        if run.init == "scratch":
            scratch.setdefault(_point_of(run), []).append(run.run_id)
    return {run.run_id: scratch.get(_point_of(run), []) for run in runs if run.init == "pretrain"}


def _point_of(run: PlannedRun) -> tuple[str, str, str]:
    """What a run and its controls have in common."""
    return run.label, str(run.values), str(run.tuned)


def _owners(run: PlannedRun) -> list[str]:
    """The runs whose pre-training this one needs."""
    return [owner for owner in (run.pretrained_by, run.branched_from) if owner is not None]


def _without(plan: Plan, reasons: dict[str, str]) -> Plan:
    dropped = [Dropped(run.name, run.init, reasons[run.run_id]) for run in plan.runs if run.run_id in reasons]
    runs = tuple(run for run in plan.runs if run.run_id not in reasons)
    return dataclasses.replace(plan, runs=runs, dropped=(*plan.dropped, *dropped))
