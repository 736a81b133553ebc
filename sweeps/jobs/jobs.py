"""The tasks of a plan as jobs: which are left to do, which a user means, in which order, and what their status says."""

from __future__ import annotations

import dataclasses
import functools
import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from nepa_scale.config.registry import TASKS, spec
from nepa_scale.run_dir.run_folder import is_finished
from nepa_scale.run_dir.status import Status, read_status, write_status
from nepa_scale.utils.arguments import option
from nepa_scale.utils.errors import UserError, nearest, shortened
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
    """A job for every unfinished task of the plan that can still be done.

    Tasks that a user has cancelled are left out, and with a pre-training those that wait for it.
    """
    return without_orphans(job for job in unfinished_jobs(plan, study_dir) if not is_cancelled(task_dir(job)))


def unfinished_jobs(plan: Plan, study_dir: Path) -> list[Job]:
    """A job for every unfinished task of the plan, cancelled or not; downstream tasks wait for an unfinished
    pre-training."""
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
        if not spec(task).downstream and run.branched_from is not None:
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
    return jobs


def without_orphans(jobs: Iterable[Job], present: Iterable[str] = ()) -> list[Job]:
    """``jobs`` without those that wait for one that is neither among them nor among the keys ``present``."""
    jobs = list(jobs)
    keys = {*present, *(job.key for job in jobs)}
    orphans = {job.key for job in with_dependants([job for job in jobs if not keys.issuperset(job.after)], jobs)}
    return [job for job in jobs if job.key not in orphans]


def selected(todo: list[Job], only: str) -> list[Job]:
    """The jobs of ``todo`` that ``only`` names: all, those that failed, or those that did not (missing).

    A job that waits for one that is left out is left out, too.
    """
    if only == "all":
        return todo
    failed = {job.key for job in todo if state(job) == "failed"}
    return without_orphans(job for job in todo if (job.key in failed) == (only == "failed"))


def with_dependants(chosen: Sequence[Job], jobs: Sequence[Job]) -> list[Job]:
    """Of ``jobs``, the ``chosen`` and all that wait for them, directly or not."""
    children: dict[str, set[str]] = {}
    for job in jobs:
        for parent in job.after:
            children.setdefault(parent, set()).add(job.key)
    return _reached(chosen, jobs, children)


def with_parents(chosen: Sequence[Job], jobs: Sequence[Job]) -> list[Job]:
    """Of ``jobs``, the ``chosen`` and all that they wait for, directly or not."""
    return _reached(chosen, jobs, {job.key: set(job.after) for job in jobs})


def _reached(chosen: Sequence[Job], jobs: Sequence[Job], edges: Mapping[str, set[str]]) -> list[Job]:
    """Of ``jobs``, those that ``edges`` lead to from the ``chosen``, and these."""
    keys = {job.key for job in chosen}
    pending = list(keys)
    while pending:
        new = edges.get(pending.pop(), set()) - keys
        keys |= new
        pending += new
    return [job for job in jobs if job.key in keys]


def is_done(job: Job) -> bool:
    """Whether the task has its result."""
    return is_finished(task_dir(job))


def state(job: Job) -> str:
    """The state in the task's ``status.json``; planned where there is none."""
    status = read_status(task_dir(job))
    return status.state if status else "planned"


def task_dir(job: Job) -> Path:
    """The folder of the task that ``job`` does."""
    return job.folder.parent


def log_file(job: Job) -> Path:
    """The file that the last process of ``job`` printed errors to; the task's log where there is none."""
    printed = task_dir(job) / PRINTED_NAME
    return printed if printed.exists() else task_dir(job) / "log.txt"


def mark(job: Job, new_state: str, error: str | None = None) -> None:
    """Set the state of the job's task, and keep its step and attempts."""
    before = read_status(task_dir(job)) or Status(new_state)
    write_status(task_dir(job), dataclasses.replace(before, state=new_state, error=error))


def put_in_line(job: Job) -> None:
    """Mark a task as submitted, and forget what an earlier process of it printed: that explains no later failure."""
    mark(job, "submitted")
    (task_dir(job) / PRINTED_NAME).unlink(missing_ok=True)


def settle(job: Job, error: str | None, *, stopping: bool) -> Status:
    """Correct the status of a task whose process has ended, and return it.

    ``stopping``: the process was told to stop, so that the task is preempted or planned instead of failed.
    """
    status = read_status(task_dir(job)) or Status("planned")
    cancelled = status.state != "finished" and is_cancelled(task_dir(job))
    if cancelled or (status.state in UNDER_WAY and not stopping):
        end(job, error or "ended before its end")
    elif status.state in UNDER_WAY:
        mark(job, "preempted" if status.step else "planned")
    return read_status(task_dir(job)) or status


def end(job: Job, reason: str) -> None:
    """Mark a task as failed: because it was cancelled, else by the error that it printed, else for ``reason``."""
    cancelled = is_cancelled(task_dir(job))
    mark(job, "failed", CANCELLED if cancelled else printed_error(job) or reason)


def not_started(parent: str) -> str:
    """Why a task was not started that waited for job ``parent``."""
    return f"not started: {parent.rpartition('/')[2]} failed"


def printed_error(job: Job) -> str | None:
    """The first ``error:`` line that the last process of ``job`` printed."""
    path = log_file(job)
    return first_error(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else None


def first_error(printed: str) -> str | None:
    """The first line of ``printed`` that begins with ``error:``, without that prefix."""
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


def makespan(jobs: Sequence[Job], seconds: Mapping[str, float], slots: int) -> float:
    """Time from first start to last end when ``slots`` jobs run at once in the order of ``by_chain``."""
    order = by_chain(jobs)
    unfinished = {job.key for job in order}
    parents = {job.key: {parent for parent in job.after if parent in unfinished} for job in order}
    children: dict[str, list[int]] = {job.key: [] for job in order}
    for index, job in enumerate(order):
        for parent in parents[job.key]:
            children[parent].append(index)
    ready = [index for index, job in enumerate(order) if not parents[job.key]]  # sorted, and so a heap
    running: list[tuple[float, str]] = []
    clock = 0.0
    while ready or running:
        if ready and len(running) < slots:
            key = order[heapq.heappop(ready)].key
            heapq.heappush(running, (clock + seconds[key], key))
            continue
        clock, key = heapq.heappop(running)
        for index in children[key]:
            waits_for = parents[order[index].key]
            waits_for.discard(key)
            if not waits_for:
                heapq.heappush(ready, index)
    return clock


@dataclass(frozen=True)
class Selection:
    """A study and which of its tasks."""

    study_dir: Path = option("directory of the study", positional=True, form="STUDY_DIR")
    run: str | None = option(
        "only runs whose label, label and seed or run_id fits, e.g. 'femto*'", None, form="PATTERN"
    )
    task: str | None = option("only this task", None, choices=TASKS)

    def keys(self, planned: Plan) -> list[str]:
        """run_id/task of the selected tasks. Raises ``UserError`` where there are none."""
        keys = [
            f"{run.run_id}/{task}"
            for run in planned.runs
            for task in run.tasks
            if self.task in (None, task)
            and (self.run is None or any(map(self._fits, (run.run_id, run.label, run.name))))
        ]
        if not keys:
            names = sorted({run.name for run in planned.runs})
            labels = {run.label for run in planned.runs}
            hint = nearest(self.run, sorted(labels.union(names))) if self.run else ""
            raise UserError(f"{self._words()}: no such task in {self.study_dir}{hint} (runs: {shortened(names)})")
        return keys

    def _fits(self, name: str) -> bool:
        return name == self.run or fnmatchcase(name, str(self.run))  # a name may have brackets of its own

    def _words(self) -> str:
        given = {"run": self.run, "task": self.task}
        return " ".join(f"{key}={value}" for key, value in given.items() if value is not None) or "all tasks"
