"""The tasks of a plan as jobs: what is left to do, and keeping ``status.json`` true."""

from __future__ import annotations

import dataclasses
import functools
import heapq
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nepa_scale.run_dir.paths import is_finished
from nepa_scale.run_dir.status import Status, read_status, write_status
from sweeps.jobs.task import CANCELLED, PRINTED_NAME, is_cancelled, run_task
from sweeps.plan.machine import Resources
from sweeps.plan.plan import Plan, run_dir

UNDER_WAY = ("submitted", "running")


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


def jobs_to_do(plan: Plan, study_dir: Path) -> list[Job]:
    """A job for every unfinished task of the plan that no user has cancelled; fine-tuning waits for unfinished
    pre-training, and where that was cancelled is not to be done either."""
    unfinished = {
        f"{run.run_id}/{task}": (run, task)
        for run in plan.runs
        for task in run.tasks
        if not is_finished(run_dir(study_dir, run.run_id) / task)
    }
    jobs = []
    for key, (run, task) in unfinished.items():
        directory = run_dir(study_dir, run.run_id).absolute()
        pretraining = f"{run.pretrained_by or run.run_id}/pretrain"
        if task == "pretrain" and run.branched_from is not None:
            pretraining = f"{run.branched_from}/pretrain"
        waits = run.init == "pretrain" and pretraining != key and pretraining in unfinished
        jobs.append(
            Job(
                key=key,
                function=functools.partial(run_task, str(directory), task),
                folder=directory / task / "submitit",
                after=(pretraining,) if waits else (),
                cost=run.tasks[task].flops - run.tasks[task].flops_inherited,
                resources=run.tasks[task].resources,
            )
        )
    return without_orphans(job for job in jobs if not is_cancelled(task_dir(job)))


def without_orphans(jobs: Iterable[Job]) -> list[Job]:
    """``jobs`` without those that wait for one that is not among them."""
    chosen = {job.key: job for job in jobs}
    while orphans := [key for key, job in chosen.items() if any(parent not in chosen for parent in job.after)]:
        for key in orphans:  # whose own children are orphans in the next round
            del chosen[key]
    return list(chosen.values())


def selected(todo: list[Job], only: str) -> list[Job]:
    """The jobs of ``todo`` that ``only`` names: all, those that failed, or those missing for another reason.

    One that waits for a job that is not among them cannot start and is left out, too.
    """
    if only == "all":
        return todo
    failed = {job.key for job in todo if state(job) == "failed"}
    return without_orphans(job for job in todo if (job.key in failed) == (only == "failed"))


def with_dependants(chosen: Sequence[Job], jobs: Sequence[Job]) -> list[Job]:
    """Of ``jobs``, the ``chosen`` and all that wait for them, however far down the line."""
    keys, grown = {job.key for job in chosen}, True
    while grown:
        below = {job.key for job in jobs if job.key not in keys and keys.intersection(job.after)}
        keys, grown = keys | below, bool(below)
    return [job for job in jobs if job.key in keys]


def with_parents(chosen: Sequence[Job], jobs: Sequence[Job]) -> list[Job]:
    """Of ``jobs``, the ``chosen`` and all that these wait for."""
    by_key = {job.key: job for job in jobs}
    keys = {job.key for job in chosen}
    pending = list(keys)
    while pending:
        above = {parent for parent in by_key[pending.pop()].after if parent in by_key} - keys
        keys |= above
        pending += above
    return [job for job in jobs if job.key in keys]


def is_done(job: Job) -> bool:
    """Whether the task has its result."""
    return is_finished(task_dir(job))


def state(job: Job) -> str:
    """What the task says of itself; planned where it says nothing yet."""
    status = read_status(task_dir(job))
    return status.state if status else "planned"


def task_dir(job: Job) -> Path:
    """The folder of the task that ``job`` does."""
    return job.folder.parent


def log_file(job: Job) -> Path:
    """What the last process of ``job`` printed, or where the task's log will be."""
    printed = task_dir(job) / PRINTED_NAME
    return printed if printed.exists() else task_dir(job) / "log.txt"


def mark(job: Job, new_state: str, error: str | None = None) -> None:
    """Set the state of the job's task; its step and attempts stay."""
    before = read_status(task_dir(job)) or Status(new_state)
    write_status(task_dir(job), dataclasses.replace(before, state=new_state, error=error))


def put_in_line(job: Job) -> None:
    """Say of a task that it waits in a queue; the step that it had come to stays. What an earlier process of it printed
    is no reason for what comes."""
    mark(job, "submitted")
    (task_dir(job) / PRINTED_NAME).unlink(missing_ok=True)


def settle(job: Job, error: str | None, *, stopping: bool) -> Status:
    """Make the status of a task whose process is gone say what became of it, and return it."""
    status = read_status(task_dir(job)) or Status("planned")
    cancelled = status.state != "finished" and is_cancelled(task_dir(job))
    if cancelled or (status.state in UNDER_WAY and not stopping):
        end(job, error or "ended before its end")
    elif status.state in UNDER_WAY:
        mark(job, "preempted" if status.step else "planned")
    return read_status(task_dir(job)) or status


def end(job: Job, reason: str) -> None:
    """Say of a task that its process is gone for good, and why: ``reason``, unless it was cancelled or has said more
    itself."""
    cancelled = is_cancelled(task_dir(job))
    mark(job, "failed", CANCELLED if cancelled else printed_error(job) or reason)


def not_started(parent: str) -> str:
    """Why a task failed that waited for job ``parent``."""
    return f"not started: {parent.rpartition('/')[2]} failed"


def printed_error(job: Job) -> str | None:
    """The first ``error:`` line that the last process of ``job`` printed."""
    path = log_file(job)
    return first_error(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else None


def first_error(printed: str) -> str | None:
    """The first line by which a command of ours tells an error, without its prefix."""
    lines = printed.splitlines()
    return next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), None)


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
