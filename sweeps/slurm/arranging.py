"""Jobs of a study put together for Slurm: equal chains as arrays, tasks of a part of a node as packs that share one.

An array holds equal chains of jobs, so that element i of a child waits for element i of its parent. A pack is one job
of Slurm, on one node: a queue in it starts each of its tasks on devices of its own (``inside_job.py``).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweeps.jobs.jobs import Job, chain_costs, makespan
from sweeps.plan.machine import Resources


@dataclass(frozen=True, eq=False)
class Array:
    """Jobs of one task and one shape.

    They wait for the elements of ``parent``, an array of the same length, or all for ``live_parent``.
    """

    jobs: tuple[Job, ...]
    parent: Array | None = None
    live_parent: Awaited | None = None

    @property
    def resources(self) -> Resources:
        """What each element asks for."""
        return self.jobs[0].resources


@dataclass(frozen=True, eq=False)
class Pack:
    """Jobs that share one node, ``width`` of them at once; those that wait for another of the pack follow it there.

    The others wait for ``live_parent`` to end, and each then finds out whether the task that it needs is finished.
    """

    jobs: tuple[Job, ...]
    width: int
    live_parent: Awaited | None = None

    @property
    def resources(self) -> Resources:
        """What the job of all asks for: one process, which has the devices of ``width`` tasks."""
        each = self.jobs[0].resources
        return dataclasses.replace(
            each,
            tasks_per_node=1,
            gpus_per_node=each.gpus_per_node * self.width,
            cpus_per_task=each.cpus_per_task * each.tasks_per_node * self.width,
            mem_gb=None if each.mem_gb is None else each.mem_gb * self.width,
            timeout_min=self._minutes(),
        )

    def idle_device_seconds(self, seconds: Mapping[str, float]) -> float:
        """Time of its devices between their last task's end and the pack's; ``seconds``: {task: its time}."""
        held = self.width * makespan(self.jobs, seconds, self.width)
        return self.jobs[0].resources.tasks_per_node * (held - sum(seconds[job.key] for job in self.jobs))

    def _minutes(self) -> int | None:
        """The time limit in which all end that keep their own."""
        limits = {job.key: job.resources.timeout_min for job in self.jobs}
        minutes = {key: float(limit) for key, limit in limits.items() if limit is not None}
        return math.ceil(makespan(self.jobs, minutes, self.width)) if len(minutes) == len(limits) else None


@dataclass(frozen=True)
class Element:
    """One job of an array."""

    array: Array
    index: int


#: What jobs wait for beside a parent array: an element, a pack, or the dependency on a job that Slurm has already.
Awaited = Element | Pack | str


def arranged(jobs: Sequence[Job], live: Mapping[str, str], max_size: int) -> list[Array | Pack]:
    """Group ``jobs`` into arrays of at most ``max_size`` and packs, parents first.

    ``live``: {key of a job that Slurm has: dependency on it}. A job waits for at most one other. What is connected by
    waiting stays in one pack, or in arrays of one index, as far as it has the same number of devices.
    """
    awaited: dict[str, Awaited] = dict(live)
    units: list[Array | Pack] = []
    blocks = _blocks(jobs)
    while blocks:
        left = {job.key for block in blocks for job in block}
        ready = [block for block in blocks if left.isdisjoint(block[0].after)]
        blocks = [block for block in blocks if not left.isdisjoint(block[0].after)]
        whole = [job for block in ready for job in block if job.resources.sharing == 1]
        new: list[Array | Pack] = [*arrays_of(whole, awaited, max_size)]
        new += _packs([block for block in ready if block[0].resources.sharing > 1], awaited)
        for unit in new:
            for index, job in enumerate(unit.jobs):
                awaited[job.key] = unit if isinstance(unit, Pack) else Element(unit, index)
        units += new
    return units


def _blocks(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs that wait for one another and go together, their first one in front."""
    by_key = {job.key: job for job in jobs}
    blocks: dict[str, list[Job]] = {}

    def first(job: Job) -> Job:
        parents = [by_key[parent] for parent in job.after if parent in by_key]
        together = parents and _kind(parents[0]) == _kind(job)
        return first(parents[0]) if together else job

    for job in sorted(jobs, key=lambda job: first(job) is not job):
        blocks.setdefault(first(job).key, []).append(job)
    return list(blocks.values())


def _kind(job: Job) -> int:
    """Equal for jobs that can be in one pack, and for all that have whole nodes."""
    return job.resources.tasks_per_node if job.resources.sharing > 1 else 0


def _packs(blocks: Sequence[list[Job]], awaited: Mapping[str, Awaited]) -> list[Array | Pack]:
    """Packs of blocks that wait for the same; those of like length together, as a pack lasts as long as its longest.

    A task that has nobody to share with is an array of its own.
    """
    groups: dict[tuple[int, Awaited | None], list[list[Job]]] = {}
    for block in blocks:
        waits = next((awaited[parent] for parent in block[0].after if parent in awaited), None)
        groups.setdefault((block[0].resources.tasks_per_node, waits), []).append(block)
    packs: list[Array | Pack] = []
    for (_, waits), group in groups.items():
        ordered = sorted(group, key=lambda block: -chain_costs(block)[block[0].key])
        room = group[0][0].resources.sharing
        for start in range(0, len(ordered), room):
            chosen = ordered[start : start + room]
            members = tuple(job for block in chosen for job in block)
            alone = len(members) == 1
            packs.append(Array(members, live_parent=waits) if alone else Pack(members, len(chosen), waits))
    return packs


def arrays_of(jobs: Sequence[Job], awaited: Mapping[str, Awaited], max_size: int) -> list[Array]:
    """Group ``jobs`` into few arrays of at most ``max_size``, parents first.

    Jobs share an array when they, and all that wait for them, have the same shape.
    """
    new = {job.key: job for job in jobs}
    children: dict[str, list[Job]] = {}
    for job in jobs:
        for parent in job.after:
            children.setdefault(parent, []).append(job)
    shapes = _shapes(jobs, children)
    groups: dict[tuple[str, Awaited | None], list[Job]] = {}
    for job in jobs:
        parents = [parent for parent in job.after if parent in new]
        if not parents:
            waits = next((awaited[parent] for parent in job.after if parent in awaited), None)
            groups.setdefault((shapes[job.key], waits), []).append(job)
    arrays: list[Array] = []
    for (_, waits), group in groups.items():
        for start in range(0, len(group), max_size):
            root = Array(tuple(group[start : start + max_size]), live_parent=waits)
            arrays += _with_children(root, children, shapes)
    return arrays


def _with_children(array: Array, children: Mapping[str, Sequence[Job]], shapes: Mapping[str, str]) -> list[Array]:
    ordered = [
        sorted(children.get(job.key, ()), key=lambda child: (shapes[child.key], child.key)) for job in array.jobs
    ]
    below = [Array(column, parent=array) for column in zip(*ordered, strict=True)]
    return [array, *(item for child in below for item in _with_children(child, children, shapes))]


def _shapes(jobs: Sequence[Job], children: Mapping[str, Sequence[Job]]) -> dict[str, str]:
    """{key: text of the task, its resources, and the same of all jobs that wait for it}."""
    shapes: dict[str, str] = {}

    def shape(job: Job) -> str:
        if job.key not in shapes:
            below = sorted(shape(child) for child in children.get(job.key, ()))
            shapes[job.key] = f"{job.key.rpartition('/')[2]} {job.resources} [{'; '.join(below)}]"
        return shapes[job.key]

    for job in jobs:
        shape(job)
    return shapes
