"""The order of work: what may start, and what should start first so that the whole ends soon."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sweeps.resources import Resources


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
    waiting, running, unfinished = by_chain(jobs), list[tuple[float, str]](), {job.key for job in jobs}
    clock = 0.0
    while waiting or running:
        ready = next((job for job in waiting if is_ready(job, unfinished)), None)
        if ready is not None and len(running) < slots:
            waiting.remove(ready)
            heapq.heappush(running, (clock + seconds[ready.key], ready.key))
        else:
            clock, key = heapq.heappop(running)
            unfinished.discard(key)
    return clock
