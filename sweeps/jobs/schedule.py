"""The order of work: what may start, and what should start first so that the whole ends soon."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sweeps.plan.resources import Resources


@dataclass(frozen=True, kw_only=True)
class Job:
    """A piece of work: call ``function`` once the jobs in ``after`` are finished.

    ``function`` is picklable and raises when it fails; ``cost`` in any one unit orders the queue; ``folder``
    takes the files of its submissions.
    """

    key: str
    function: Callable[[], object]
    folder: Path
    after: tuple[str, ...] = ()
    cost: float = 0.0
    resources: Resources = field(default_factory=Resources)


def by_chain(jobs: Sequence[Job]) -> list[Job]:
    """Jobs with the costliest chain (a job and the longest line of work waiting for it) first; stable."""
    chain = chain_costs(jobs)
    return sorted(jobs, key=lambda job: -chain[job.key])


def chain_costs(jobs: Sequence[Job]) -> dict[str, float]:
    """{key: cost of the job plus that of the costliest line of jobs that wait for it}."""
    waiting: dict[str, list[Job]] = {job.key: [] for job in jobs}
    for job in jobs:
        for parent in job.after:
            waiting.get(parent, []).append(job)
    chain: dict[str, float] = {}

    def cost_of(job: Job) -> float:
        if job.key not in chain:
            chain[job.key] = job.cost + max((cost_of(child) for child in waiting[job.key]), default=0.0)
        return chain[job.key]

    for job in jobs:
        cost_of(job)
    return chain


def is_ready(job: Job, unfinished: Collection[str]) -> bool:
    """Whether nothing the job waits for is still ``unfinished``."""
    return not any(parent in unfinished for parent in job.after)


def makespan(jobs: Sequence[Job], seconds: Mapping[str, float], slots: int) -> float:
    """Time from first start to last end when ``slots`` jobs run at once in the order of ``by_chain``."""
    order = by_chain(jobs)
    unfinished = {job.key for job in order}
    parents = {job.key: {parent for parent in job.after if parent in unfinished} for job in order}
    children: dict[str, list[int]] = {job.key: [] for job in order}
    for place, job in enumerate(order):
        for parent in parents[job.key]:
            children[parent].append(place)
    ready = [place for place, job in enumerate(order) if not parents[job.key]]  # sorted, and so a heap
    running: list[tuple[float, str]] = []
    clock = 0.0
    while ready or running:
        if ready and len(running) < slots:
            key = order[heapq.heappop(ready)].key
            heapq.heappush(running, (clock + seconds[key], key))
            continue
        clock, key = heapq.heappop(running)
        for place in children[key]:
            waits_for = parents[order[place].key]
            waits_for.discard(key)
            if not waits_for:
                heapq.heappush(ready, place)
    return clock
