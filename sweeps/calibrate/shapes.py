"""Which tasks of a launch are measured, so that the times of all follow, and the short training that measures one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

from nepa_scale.config.early_stop import KNN, asks_for_knn
from nepa_scale.config.registry import spec
from nepa_scale.config.schema import RunConfig
from nepa_scale.config.task_settings import PretrainConfig
from nepa_scale.placement.costs import task_cost
from sweeps.plan.grids import RunSpec
from sweeps.plan.machine import Placements, seedless
from sweeps.plan.measured_times import Measurements, evaluates, family_of, work_of
from sweeps.plan.timing import ShortRun

#: From this ratio of the largest to the smallest task of a family on, one between them is measured, too.
WIDE = 30.0
TARGET_SECONDS = 2.0
SHORTEST, LONGEST = 5, 40


@dataclass(frozen=True)
class Shape:
    """A task on so many ``devices``, which stands for all of its family with equal ``work`` (FLOPs of a step)."""

    config: RunConfig
    task: str
    family: str
    work: float
    label: str
    devices: int


def unmeasured(points: Mapping[str, RunSpec], placed: Placements, known: Measurements) -> list[Shape]:
    """The shapes to measure: of each family the smallest, the largest, and one between if they are far apart."""
    chosen = [shape for family in families(points, placed).values() for shape in _ends(family)]
    return [shape for shape in chosen if not known.has(shape.family, shape.work)]


def families(points: Mapping[str, RunSpec], placed: Placements) -> dict[str, dict[float, Shape]]:
    """{family: {work of a step: a task with that work}} of all tasks."""
    shapes: dict[str, dict[float, Shape]] = {}
    different = {(seedless(point.config), point.tasks): point for point in points.values()}
    for point in different.values():
        for task in point.tasks:
            placement = placed.of(point.config, task)
            cost = task_cost(point.config, task, activation_checkpointing=placement.activation_checkpointing)
            family, work = family_of(point.config, task, placement), work_of(cost)
            shape = Shape(point.config, task, family, work, f"{point.label} {task}", placement.world_size)
            shapes.setdefault(family, {}).setdefault(work, shape)
    return shapes


def _ends(family: dict[float, Shape]) -> list[Shape]:
    works = sorted(family)
    chosen = {works[0], works[-1]}
    if works[-1] > WIDE * works[0]:
        middle = math.sqrt(works[0] * works[-1])
        chosen.add(min(works, key=lambda work: abs(math.log(work / middle))))
    return [family[work] for work in sorted(chosen)]


def short_run(shape: Shape, step_seconds: float | None) -> ShortRun:
    """A run whose measured steps take about ``TARGET_SECONDS``, if one takes ``step_seconds``."""
    log_every = round(TARGET_SECONDS / 3 / step_seconds) if step_seconds else 2 * SHORTEST
    return ShortRun(max(SHORTEST, min(LONGEST, log_every)), evaluates(shape.config.task_config(shape.task)))


def short_config(config: RunConfig, task: str, run: ShortRun) -> RunConfig:
    """``config`` shortened to ``run`` of ``task`` only. Without weights to start from, ``task`` starts from scratch."""
    section = config.task_config(task)
    pretraining = not spec(task).downstream
    section = dataclasses.replace(
        section,
        steps=run.steps,
        epochs=None,
        eval_every=run.evaluate_every,
        milestones=f"{{{run.steps}: {{{KNN}: 0.0}}}}" if pretraining and asks_for_knn(section) else None,
    )
    if isinstance(section, PretrainConfig):
        section = dataclasses.replace(section, stop_on_collapse=False)
    saving = dataclasses.replace(config.checkpoint, every=run.save_every, keep_steps=None, branch_from=None)
    return dataclasses.replace(
        config,
        task=task,
        init="scratch" if config.init == "pretrain" and not pretraining else config.init,
        pretrain_dir=None,
        checkpoint=saving,
        log=dataclasses.replace(config.log, every=run.log_every),
        **{task: section},  # type: ignore[arg-type]
    )
