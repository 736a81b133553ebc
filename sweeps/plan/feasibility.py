"""What would stop the runs of a plan, found before any of them starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nepa_scale.config import validate
from nepa_scale.config.subsets import labels_per_class
from nepa_scale.placement import ds_config
from nepa_scale.utils.errors import ConfigError
from nepa_scale.weights.initial import check_start
from sweeps.plan.placements import Placements
from sweeps.plan.plan import Dropped
from sweeps.plan.run_spec import RunSpec


def check(points: Iterable[RunSpec], devices: int, *, planning: bool = False) -> None:
    """Raises ``ConfigError`` with what would stop the tasks: data, batches, the DeepSpeed file.

    ``planning``: facts may stand in for data sets that are not there.
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


def fitting(
    points: Mapping[str, RunSpec], placed: Placements, devices: int
) -> tuple[dict[str, RunSpec], tuple[Dropped, ...]]:
    """The points that can be run, and the others with their reasons. Raises ``ConfigError`` when there are none."""
    reasons = {run_id: reason for run_id, point in points.items() if (reason := _infeasibility(point, placed, devices))}
    for run_id, point in points.items():
        if point.branched_from in reasons:
            reasons[run_id] = f"its long pre-training is not run: {reasons[point.branched_from]}"
    dropped = tuple(
        Dropped(points[run_id].label, points[run_id].config.init, reason) for run_id, reason in reasons.items()
    )
    if len(reasons) == len(points):
        raise ConfigError([f"{each.label}: {each.reason}" for each in dropped])
    return {run_id: point for run_id, point in points.items() if run_id not in reasons}, dropped


def _infeasibility(point: RunSpec, placed: Placements, devices: int) -> str | None:
    """Why a point cannot be run on these devices."""
    problems = validate.check_batches(point.config, point.tasks, devices)
    if problems:
        return f"batch: {problems[0]}"
    placements = {task: placed.of(point.config, task) for task in point.tasks}
    texts = (f"memory: {task} {each.problem}" for task, each in placements.items() if each.problem is not None)
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
