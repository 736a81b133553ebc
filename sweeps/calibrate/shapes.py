"""Which tasks of a launch are measured, so that the times of all follow from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from nepa_scale.config.schema import RunConfig
from nepa_scale.placement.costs import task_cost
from sweeps.plan.measured_times import Measurements, family_of, work_of
from sweeps.plan.placements import Placements, seedless
from sweeps.plan.run_spec import RunSpec

#: Largest over smallest task of a family from which on one between them is measured, too.
WIDE = 30.0


@dataclass(frozen=True)
class Shape:
    """A task of ``config`` on so many ``devices`` that stands for all of its family with as much ``work`` in a step."""

    config: RunConfig
    task: str
    family: str
    work: float
    label: str
    devices: int


def unmeasured(points: Mapping[str, RunSpec], placed: Placements, known: Measurements) -> list[Shape]:
    """The shapes still to be measured: of each family the smallest, the largest, and one between where these lie far
    apart."""
    chosen = [shape for family in families(points, placed).values() for shape in _ends(family)]
    return [shape for shape in chosen if not known.has(shape.family, shape.work)]


def families(points: Mapping[str, RunSpec], placed: Placements) -> dict[str, dict[float, Shape]]:
    """{family: {work of a step: a task that does so much}} of all tasks."""
    found: dict[str, dict[float, Shape]] = {}
    different = {(seedless(point.config), point.tasks): point for point in points.values()}
    for point in different.values():
        for task in point.tasks:
            placement = placed.of(point.config, task)
            cost = task_cost(point.config, task, activation_checkpointing=placement.activation_checkpointing)
            family, work = family_of(point.config, task, placement), work_of(cost)
            shape = Shape(point.config, task, family, work, f"{point.label} {task}", placement.world_size)
            found.setdefault(family, {}).setdefault(work, shape)
    return found


def _ends(family: dict[float, Shape]) -> list[Shape]:
    works = sorted(family)
    chosen = {works[0], works[-1]}
    if works[-1] > WIDE * works[0]:
        middle = math.sqrt(works[0] * works[-1])
        chosen.add(min(works, key=lambda work: abs(math.log(work / middle))))
    return [family[work] for work in sorted(chosen)]
