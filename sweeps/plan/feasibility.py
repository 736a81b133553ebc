"""What would stop the runs of a plan, found before any of them starts: data, batches, memory, time limits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nepa_scale.config import validate
from nepa_scale.config.subsets import label_list, labels_per_class
from nepa_scale.placement import ds_config
from nepa_scale.placement.visible_gpus import unseen
from nepa_scale.utils.errors import ConfigError
from nepa_scale.utils.progress import reporting
from nepa_scale.weights.initial import check_start
from sweeps.plan.grids import RunSpec
from sweeps.plan.machine import Placements
from sweeps.plan.plan import Dropped, Plan, PlannedTask, duration_text
from sweeps.settings.schema import Cluster, SlurmSettings


def check(run_specs: Iterable[RunSpec], devices: int, *, planning: bool = False) -> None:
    """Raises ``ConfigError`` with what would stop the tasks: data, batches, the DeepSpeed file.

    ``planning``: the stated facts of a data set will do where it is not there.
    """
    problems: list[str] = []
    seen: set[tuple[Any, ...]] = set()
    for run_spec in run_specs:
        config = run_spec.config
        for task in run_spec.tasks:
            section = config.task_config(task)
            subset = (section.num_images, section.fraction, labels_per_class(section), label_list(section))
            reads = (config.data.root, section.dataset, *subset, task)
            if reads not in seen:
                problems += validate.check_data(config, (task,), planning=planning)
            seen.add(reads)
            problems += validate.check_milestones(config, (task,))
            problems += ds_config.check(config, task)
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
    distinct = {
        (run_spec.config.data.root, *(run_spec.config.task_config(task).dataset for task in run_spec.tasks)): run_spec
        for run_spec in run_specs
    }
    with reporting() as report:
        lines = [
            line
            for run_spec in distinct.values()
            for line in validate.check_contents(run_spec.config, run_spec.tasks, report)
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
        from nepa_scale.data.digits import write_digits

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
