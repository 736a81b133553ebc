"""What speaks against the runs of a plan before any of them starts: data, batches, memory, time limits, budgets.

A plan over its budget of device-hours or FLOPs is refused, or trimmed by its costliest runs. The tasks that are still
to do count. A run whose pre-training others use is trimmed only after those. A control from random weights is trimmed
with the last of the runs that it is the control of.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from nepa_scale.config import validate
from nepa_scale.config.registry import PRETRAIN, TASKS
from nepa_scale.config.schema import RunConfig
from nepa_scale.placement import ds_config
from nepa_scale.placement.devices import unseen
from nepa_scale.run_dir.run_folder import begun_tasks, is_finished
from nepa_scale.utils.errors import ConfigError
from nepa_scale.utils.progress import reporting
from nepa_scale.weights.initial import check_start
from sweeps.plan.grids import RunSpec
from sweeps.plan.machine import Placements
from sweeps.plan.plan import Dropped, Plan, PlannedRun, PlannedTask, duration_text, run_dir
from sweeps.settings.schema import BudgetSettings, Cluster, SlurmSettings

HOUR = 3600.0


def check(run_specs: Iterable[RunSpec], study_dir: Path, devices: int, *, planning: bool = False) -> None:
    """Raises ``ConfigError`` with what would stop the tasks: data, batches, the DeepSpeed file.

    ``planning``: the stated facts of a data set will do where it is not there.
    """
    problems: list[str] = []
    seen: set[tuple[Any, ...]] = set()
    for run_spec in run_specs:
        config = run_spec.config
        for task in run_spec.tasks:
            reads = validate.read_by_check_data(config, task)
            if reads not in seen:
                problems += validate.check_data(config, (task,), planning=planning)
            seen.add(reads)
            problems += validate.check_milestones(config, (task,))
            problems += ds_config.check(config, task)
        begun = begun_tasks(run_dir(study_dir, config.run_id))
        problems += validate.check_unused(config, tuple(task for task in run_spec.tasks if task not in begun))
        problems += validate.check_batches(config, run_spec.tasks, devices)
        tasks = (dataclasses.replace(config, task=task) for task in run_spec.tasks)
        problems += [line for task in tasks if task.start != "pretrain" for line in check_start(Path(), task)]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def check_planned(run_specs: Iterable[RunSpec], *, calibrate: bool) -> None:
    """Raises ``ConfigError`` where tasks shall be calibrated on data sets that are not there."""
    absent = stated_data(run_specs) if calibrate else []
    if absent:
        names = " and ".join(text.partition(" ")[0] for text in absent)
        raise ConfigError([f"calibrate=true trains for some steps, but data.root has no {names}; plan without it"])


def check_shards(run_specs: Iterable[RunSpec]) -> None:
    """Raises ``ConfigError`` naming every damaged shard."""
    distinct: dict[tuple[Any, ...], tuple[RunConfig, set[str]]] = {}
    for run_spec in run_specs:
        config = run_spec.config
        datasets = (config.task_config(task).dataset for task in TASKS)
        _, tasks = distinct.setdefault((config.data.root, config.data.streaming, *datasets), (config, set()))
        tasks.update(run_spec.tasks)
    with reporting() as report:
        lines = [
            line
            for config, tasks in distinct.values()
            for line in validate.check_contents(config, tuple(sorted(tasks)), report)
        ]
    if lines:
        raise ConfigError(list(dict.fromkeys(lines)))


def stated_data(run_specs: Iterable[RunSpec]) -> list[str]:
    """A text for each data set that is not there, and for which the plan uses its stated facts."""
    data_sets: dict[tuple[str, str | None, str], tuple[RunSpec, str]] = {}
    for run_spec in run_specs:
        for task in run_spec.tasks:
            data = run_spec.config.data
            data_sets[data.root, data.stated, run_spec.config.task_config(task).dataset] = run_spec, task
    return [text for run_spec, task in data_sets.values() for text in validate.stated_data(run_spec.config, (task,))]


def make_embedded_data(run_specs: Iterable[RunSpec]) -> None:
    """Write the embedded data set once, before several tasks want it at the same time."""
    roots = {
        p.config.data.root for p in run_specs if any(validate.is_made_on_demand(p.config, task) for task in p.tasks)
    }
    for root in roots:
        from nepa_scale.data.prepare.digits import write_digits

        write_digits(Path(root))


def fitting(
    run_specs: Mapping[str, RunSpec], placed: Placements, devices: int
) -> tuple[dict[str, RunSpec], tuple[Dropped, ...]]:
    """The feasible points, and the others with their reasons. Raises ``ConfigError`` when none is feasible."""
    reasons = {
        run_id: reason
        for run_id, run_spec in run_specs.items()
        if (reason := _infeasibility(run_spec, placed, devices))
    }
    for run_id, run_spec in run_specs.items():
        if run_spec.branched_from in reasons:
            reasons[run_id] = f"its long pre-training is not run: {reasons[run_spec.branched_from]}"
    dropped = tuple(
        Dropped(run_specs[run_id].label, run_specs[run_id].config.init, reason) for run_id, reason in reasons.items()
    )
    if len(reasons) == len(run_specs):
        raise ConfigError([f"{run.label}: {run.reason}" for run in dropped])
    return {run_id: run_spec for run_id, run_spec in run_specs.items() if run_id not in reasons}, dropped


def _infeasibility(run_spec: RunSpec, placed: Placements, devices: int) -> str | None:
    """Why a point cannot be run on these devices; None if it can."""
    problems = validate.check_batches(run_spec.config, run_spec.tasks, devices)
    if problems:
        return f"batch: {problems[0]}"
    placements = {task: placed.of(run_spec.config, task) for task in run_spec.tasks}
    texts = (f"memory: {task} {plan.problem}" for task, plan in placements.items() if plan.problem is not None)
    return next(texts, "").partition(";")[0] or None


def too_large(run_specs: Iterable[RunSpec], placed: Placements) -> list[str]:
    """A line for every task that a device cannot hold."""
    lines = []
    for run_spec in run_specs:
        for task in run_spec.tasks:
            problem, unused = placed.of(run_spec.config, task).problem, placed.unused(run_spec.config, task)
            if problem is not None and unused:
                batch = run_spec.config.task_config(task).batch_size
                problem += f"; {task}.batch_size={batch} does not divide over {' or '.join(map(str, unused))} devices"
            lines += [f"{run_spec.label} {task}: {problem}"] if problem is not None else []
    return list(dict.fromkeys(lines))


def plan_warnings(plan: Plan, cluster: Cluster) -> list[str]:
    """A line for each doubt about a plan: tasks that outlast their jobs, GPUs that torch does not see.

    They rest on estimates, or on what this machine shows, so they do not stop a launch.
    """
    if not isinstance(cluster, SlurmSettings):
        return [reason] if (reason := unseen()) is not None else []
    lines = (
        f"{run.label} {name}: {reason}"
        for run in plan.runs
        for name, task in run.tasks.items()
        if (reason := outlasts(task.seconds, task.resources.timeout_min, cluster)) is not None
    )
    return list(dict.fromkeys(lines))


def outlasts(seconds: float | None, timeout_min: int | None, cluster: SlurmSettings) -> str | None:
    """Why work of ``seconds`` does not end within its jobs, which each start, train, and save before their limit."""
    if seconds is None:
        return None
    minutes = min(timeout_min or cluster.timeout_min, cluster.timeout_min)
    useful = max(0.0, minutes * 60 - cluster.startup_seconds - cluster.save_seconds)
    jobs = 1 + cluster.max_requeues
    if seconds - cluster.startup_seconds <= jobs * useful or seconds <= minutes * 60:
        return None
    return (
        f"takes about {duration_text(seconds)}, and {jobs} jobs of {minutes} minutes train for"
        f" {duration_text(jobs * useful)}; raise cluster.timeout_min or cluster.max_requeues"
    )


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
        runs_of = Counter(itertools.chain.from_iterable(controls.values()))
        costliest = _costliest_first(plan.runs, left, controls)
        while total > limit:
            run_id = next(costliest)
            reasons[run_id] = f"over budget: {left[run_id]:.3g} {unit} of budget.{key}={limit:g}"
            total -= Fraction(left.pop(run_id))
            for control in controls.get(run_id, ()):
                runs_of[control] -= 1
                if not runs_of[control]:
                    total -= Fraction(left.pop(control))
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

    A run that others need comes after those. A control is left out, unless one of its runs costs nothing.
    """
    todo = {run.run_id: index for index, run in enumerate(runs) if left[run.run_id]}
    owners = {run.run_id: _owners(run) for run in runs if run.run_id in todo}
    needing = Counter(itertools.chain.from_iterable(owners.values()))
    free = {control for run_id, its in controls.items() if run_id not in todo for control in its}
    of_runs = set(itertools.chain.from_iterable(controls.values())) - free
    order = [(-left[run_id], -index, run_id) for run_id, index in todo.items() if not needing[run_id]]
    heapq.heapify(order)
    while order:
        run_id = heapq.heappop(order)[-1]
        if run_id in of_runs:
            continue
        yield run_id
        for owner in owners[run_id]:
            needing[owner] -= 1
            if not needing[owner] and owner in todo:
                heapq.heappush(order, (-left[owner], -todo[owner], owner))


def _controls(runs: Sequence[PlannedRun]) -> dict[str, list[str]]:
    """{run_id: the run_ids of its controls from random weights}."""
    scratch: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        if run.init == "scratch":
            scratch.setdefault(_point_of(run), []).append(run.run_id)
    return {run.run_id: scratch.get(_point_of(run), []) for run in runs if run.init == "pretrain"}


def _point_of(run: PlannedRun) -> tuple[str, str]:
    """What a run and its controls have in common: all that varies but settings of pre-training, which label it, too."""
    values = {key: value for key, value in run.values.items() if key.split(".")[0] != PRETRAIN.name}
    return str(values), str(run.tuned)


def _owners(run: PlannedRun) -> list[str]:
    """The runs whose pre-training this one needs."""
    return [owner for owner in (run.pretrained_by, run.branched_from) if owner is not None]


def _without(plan: Plan, reasons: dict[str, str]) -> Plan:
    dropped = [Dropped(run.name, run.init, reasons[run.run_id]) for run in plan.runs if run.run_id in reasons]
    runs = tuple(run for run in plan.runs if run.run_id not in reasons)
    return dataclasses.replace(plan, runs=runs, dropped=(*plan.dropped, *dropped))
