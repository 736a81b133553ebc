"""Which jobs go to Slurm as one array: equal chains, so that element i of a child waits for element i of its parent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweeps.jobs.schedule import Job


@dataclass(frozen=True)
class Array:
    """Jobs of one task and one shape. ``parent`` is an array as long as this one; ``live_parent`` a job id in Slurm
    for which all wait."""

    jobs: tuple[Job, ...]
    parent: Array | None = None
    live_parent: str | None = None


def arranged(jobs: Sequence[Job], live: Mapping[str, str], max_size: int) -> list[Array]:
    """``jobs`` as few arrays of at most ``max_size``, parents first. ``live``: {key: id of a job already in Slurm}.

    A job waits for at most one other. Two jobs share an array when everything that hangs on them has the same shape.
    """
    new = {job.key: job for job in jobs}
    children: dict[str, list[Job]] = {}
    for job in jobs:
        for parent in job.after:
            children.setdefault(parent, []).append(job)
    shapes = _shapes(jobs, children)
    groups: dict[tuple[str, str | None], list[Job]] = {}
    for job in jobs:
        parents = [parent for parent in job.after if parent in new]
        if not parents:
            waits = next((live[parent] for parent in job.after if parent in live), None)
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
    """{key: the task, what it asks for, and the same of all that waits for it}."""
    shapes: dict[str, str] = {}

    def shape(job: Job) -> str:
        if job.key not in shapes:
            below = sorted(shape(child) for child in children.get(job.key, ()))
            shapes[job.key] = f"{job.key.rpartition('/')[2]} {job.resources} [{'; '.join(below)}]"
        return shapes[job.key]

    for job in jobs:
        shape(job)
    return shapes
