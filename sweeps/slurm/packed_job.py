"""Inside a job that several tasks share: a queue gives each its part of the node, and they end one by one.

Each task is a process of its own, with its status, log and checkpoints, as on this machine (``local/queue.py``): one
that fails, is cancelled or interrupted leaves the others alone. When the job is told to stop, all save, and the job is
requeued for what is left of them.
"""

from __future__ import annotations

import functools
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from nepa_scale.distributed.processes import StopRequest
from nepa_scale.placement.devices import visible_gpus
from sweeps.jobs import jobs
from sweeps.jobs.jobs import Job
from sweeps.jobs.task import TaskInterruptedError, TaskNotFinishedError, is_cancelled
from sweeps.local.leases import Leases
from sweeps.local.processes import fork_server
from sweeps.local.queue import LocalQueue
from sweeps.plan.machine import Slots
from sweeps.slurm import requeue
from sweeps.slurm.arranging import Pack
from sweeps.slurm.job_states import read_submissions


def doing(pack: Pack, study_dir: Path, submission: int, max_requeues: int) -> Callable[[], None]:
    """The function of the job that does the tasks of ``pack``, submitted by that number; picklable."""
    unfinished = functools.partial(still_to_do, pack.jobs, study_dir.absolute(), submission)
    return functools.partial(_run, pack.jobs, unfinished, pack.width, max_requeues)


def still_to_do(packed: Sequence[Job], study_dir: Path, submission: int) -> list[Job]:
    """The tasks that are still this job's to do: one that failed may have been submitted again, to another job."""
    newest = {key: record.number for record in read_submissions(study_dir) for key in record.keys}
    own = [job for job in packed if newest.get(job.key, submission) == submission]
    return [job for job in own if jobs.state(job) not in ("finished", "failed")]


def _run(packed: Sequence[Job], unfinished: Callable[[], list[Job]], width: int, max_requeues: int) -> None:
    stop = StopRequest()
    todo = unfinished()
    if requeue.times_restarted() > max_requeues:
        _end(todo, requeue.restarted_too_often(max_requeues))
    tasks, slots = PackedTasks(_startable(todo), max_requeues), _slots(packed[0], width)
    with tempfile.TemporaryDirectory() as folder, fork_server(slots) as server:
        LocalQueue(slots, tasks, lambda: stop.requested, Leases(Path(folder)), server).run()
    _requeue(unfinished(), max_requeues)
    failed = [job.key for job in packed if not jobs.is_done(job)]
    if failed:
        raise TaskNotFinishedError(f"{len(failed)} of {len(packed)} tasks failed: {', '.join(failed)}")


def _slots(job: Job, width: int) -> Slots:
    """What the tasks get, which are all of the shape of ``job``."""
    asked = job.resources
    gpus = visible_gpus() if asked.gpus_per_node else ()
    return Slots(width, asked.cpus_per_task * asked.tasks_per_node, gpus, asked.tasks_per_node)


def _startable(todo: Sequence[Job]) -> list[Job]:
    """``todo`` without those that need a task which has failed; these fail, too."""
    keys = {job.key for job in todo}
    for job in todo:
        lacking = None if keys.intersection(job.after) else requeue.unfinished_parent(job)
        if lacking is not None:
            for child in jobs.with_dependants([job], todo):
                jobs.end(child, jobs.not_started(lacking if child is job else job.key))
    return [job for job in todo if jobs.state(job) != "failed"]


def _requeue(left: Sequence[Job], max_requeues: int) -> None:
    """Have the job started again for what is ``left`` of its tasks, which were told to stop."""
    if not left:
        return
    if requeue.times_restarted() >= max_requeues:
        _end(left, requeue.interrupted_too_often(requeue.times_restarted() + 1, max_requeues))
    for job in left:
        if jobs.state(job) == "planned":  # it had not made a step
            jobs.mark(job, "submitted")
    requeue.requeue_job()
    raise TaskInterruptedError(f"told to stop, with {len(left)} tasks to do")


def _end(left: Sequence[Job], reason: str) -> None:
    """Let the tasks fail for ``reason``, and with them the job."""
    for job in left:
        jobs.end(job, reason)
    raise TaskNotFinishedError(reason)


class PackedTasks:
    """The tasks of a pack for its queue; one that is interrupted alone is started again, as its own job would be."""

    def __init__(self, todo: Sequence[Job], max_restarts: int) -> None:
        self._new, self._most, self._interrupted = list(todo), max_restarts, Counter[str]()

    def arriving(self) -> Sequence[Job]:
        """All tasks at first, later those to start again."""
        new, self._new = self._new, []
        return new

    def is_cancelled(self, job: Job) -> bool:
        """Whether a user has cancelled the task."""
        return is_cancelled(jobs.task_dir(job))

    def ended(self, job: Job, error: str | None, *, stopping: bool) -> bool:
        """Decide by the task's own status; see ``LocalQueue``."""
        state = jobs.settle(job, error, stopping=stopping).state
        if state == "preempted" and not stopping:
            self._interrupted[job.key] += 1
            if self._interrupted[job.key] > self._most:
                jobs.end(job, requeue.interrupted_too_often(self._interrupted[job.key], self._most))
            else:
                self._new.append(job)
        return state == "finished"

    def skipped(self, job: Job, parent: str) -> None:
        """Let the task fail with its parent, unless that one is started again."""
        if any(again.key == parent for again in self._new):
            self._new.append(job)
        else:
            jobs.end(job, jobs.not_started(parent))
