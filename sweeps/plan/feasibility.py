"""What would stop the runs of a plan, found before any of them starts: data, batches, memory, time limits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nepa_scale.config import validate
from nepa_scale.config.subsets import labels_per_class
from nepa_scale.data.reporting import reporting
from nepa_scale.placement import ds_config
from nepa_scale.placement.visible_gpus import unseen
from nepa_scale.utils.errors import ConfigError
from nepa_scale.weights.initial import check_start
from sweeps.plan.grids import RunSpec
from sweeps.plan.machine import Placements
from sweeps.plan.plan import Dropped, Plan, PlannedTask, duration_text
from sweeps.settings.schema import Cluster, SlurmSettings


def check(points: Iterable[RunSpec], devices: int, *, planning: bool = False) -> None:
    """Raises ``ConfigError`` with what would stop the tasks: data, batches, the DeepSpeed file.

    ``planning``: the stated facts of a data set will do where it is not there.
    """
    problems: list[str] = []
    seen: set[tuple[Any, ...]] = set()
    for point in points:
        config = point.config
        for task in point.tasks:
            section = config.task_config(task)
            subset = (section.num_images, section.fraction, labels_per_class(section))
            reads = (config.data.root, section.dataset, *subset, task)
            if reads not in seen:
                problems += validate.check_data(config, (task,), planning=planning)
            seen.add(reads)
            problems += validate.check_milestones(config, (task,))
            problems += ds_config.check(config, task)
        problems += validate.check_batches(config, point.tasks, devices)
        if config.init != "pretrain":
            for task in point.tasks:
                problems += check_start(Path(), dataclasses.replace(config, task=task))
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def check_planned(points: Iterable[RunSpec], *, calibrate: bool) -> None:
    """Raises ``ConfigError`` where tasks shall be calibrated on data sets that are not there."""
    absent = stated_data(points) if calibrate else []
    if absent:
        names = " and ".join(text.partition(" ")[0] for text in absent)
        raise ConfigError([f"calibrate=true trains for some steps, but data.root has no {names}; plan without it"])


def check_shards(points: Iterable[RunSpec]) -> None:
    """Raises ``ConfigError`` naming every damaged shard."""
    distinct = {
        (point.config.data.root, *(point.config.task_config(task).dataset for task in point.tasks)): point
        for point in points
    }
    with reporting() as report:
        lines = [
            line for point in distinct.values() for line in validate.check_contents(point.config, point.tasks, report)
        ]
    if lines:
        raise ConfigError(list(dict.fromkeys(lines)))


def stated_data(points: Iterable[RunSpec]) -> list[str]:
    """A text for each data set that is not there, and for which the plan uses its stated facts."""
    data_sets: dict[tuple[str, str | None, str], tuple[RunSpec, str]] = {}
    for point in points:
        for task in point.tasks:
            data = point.config.data
            data_sets[data.root, data.stated, point.config.task_config(task).dataset] = point, task
    return [text for point, task in data_sets.values() for text in validate.stated_data(point.config, (task,))]


def make_embedded_data(points: Iterable[RunSpec]) -> None:
    """Write the embedded data set once, before several tasks want it at the same time."""
    roots = {p.config.data.root for p in points if any(validate.is_made_on_demand(p.config, task) for task in p.tasks)}
    for root in roots:
        from nepa_scale.data.digits import write_digits

        write_digits(Path(root))


def fitting(
    points: Mapping[str, RunSpec], placed: Placements, devices: int
) -> tuple[dict[str, RunSpec], tuple[Dropped, ...]]:
    """The feasible points, and the others with their reasons. Raises ``ConfigError`` when none is feasible."""
    reasons = {run_id: reason for run_id, point in points.items() if (reason := _infeasibility(point, placed, devices))}
    for run_id, point in points.items():
        if point.branched_from in reasons:
            reasons[run_id] = f"its long pre-training is not run: {reasons[point.branched_from]}"
    dropped = tuple(
        Dropped(points[run_id].label, points[run_id].config.init, reason) for run_id, reason in reasons.items()
    )
    if len(reasons) == len(points):
        raise ConfigError([f"{point.label}: {point.reason}" for point in dropped])
    return {run_id: point for run_id, point in points.items() if run_id not in reasons}, dropped


def _infeasibility(point: RunSpec, placed: Placements, devices: int) -> str | None:
    """Why a point cannot be run on these devices; None if it can."""
    problems = validate.check_batches(point.config, point.tasks, devices)
    if problems:
        return f"batch: {problems[0]}"
    placements = {task: placed.of(point.config, task) for task in point.tasks}
    texts = (f"memory: {task} {plan.problem}" for task, plan in placements.items() if plan.problem is not None)
    return next(texts, "").partition(";")[0] or None


def too_large(points: Iterable[RunSpec], placed: Placements) -> list[str]:
    """A line for every task that a device cannot hold."""
    lines = []
    for point in points:
        for task in point.tasks:
            problem, unused = placed.of(point.config, task).problem, placed.unused(point.config, task)
            if problem is not None and unused:
                batch = point.config.task_config(task).batch_size
                problem += f"; {task}.batch_size={batch} does not divide over {' or '.join(map(str, unused))} devices"
            lines += [f"{point.label} {task}: {problem}"] if problem is not None else []
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
        if (reason := _outlasts(task, cluster)) is not None
    )
    return list(dict.fromkeys(lines))


def _outlasts(task: PlannedTask, cluster: SlurmSettings) -> str | None:
    """Why a task does not end within its jobs, each of which starts, trains, and saves before its time limit."""
    if task.seconds is None:
        return None
    minutes = task.resources.timeout_min or cluster.timeout_min
    useful = max(0.0, minutes * 60 - cluster.startup_seconds - cluster.save_seconds)
    jobs = 1 + cluster.max_requeues
    if task.seconds - cluster.startup_seconds <= jobs * useful or task.seconds <= minutes * 60:
        return None
    return (
        f"takes about {duration_text(task.seconds)}, and {jobs} jobs of {minutes} minutes train for"
        f" {duration_text(jobs * useful)}; raise cluster.timeout_min or cluster.max_requeues"
    )
