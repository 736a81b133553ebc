"""What runs inside a Slurm job: one task, or several that share the job; it is requeued when they are interrupted.

Slurm requeues a job itself after a lost node, and after preemption where it is set up so. It does not after the time
limit, and a job that saves and ends within the grace time of a preemption counts as ended. So the job asks for it, up
to a number of times.

Tasks that share a job are processes of a queue, as on this machine (``local/queue.py``), which gives each its part of
the node. Each has its status, log and checkpoints: one that fails, is cancelled or interrupted leaves the others alone.
When the job is told to stop, all save, and the job is requeued for what is left of them.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from nepa_scale.distributed.signals import StopRequest
from nepa_scale.placement.devices import visible_gpus
from nepa_scale.run_dir.run_folder import is_finished
from nepa_scale.run_dir.status import read_status
from sweeps.jobs import jobs
from sweeps.jobs.jobs import Job
from sweeps.jobs.task import CANCELLED, TaskInterruptedError, TaskNotFinishedError, is_cancelled
from sweeps.local.leases import Leases
from sweeps.local.processes import fork_server
from sweeps.local.queue import LocalQueue
from sweeps.plan.machine import Slots
from sweeps.slurm.arranging import Pack
from sweeps.slurm.job_states import read_submissions

ANSWER_SECONDS = 60
ATTEMPTS, PAUSE_SECONDS = 3, 5
KILL_SECONDS = 120
SEEN_SECONDS = 60


def requeueing(job: Job, max_requeues: int, *, needs_parent: bool) -> Callable[[], None]:
    """The function of ``job``, requeued when it is interrupted; picklable.

    ``needs_parent``: Slurm has only waited for the end of the job that did what this one needs, so look at its result.
    """
    return functools.partial(_run_task, job, max_requeues, needs_parent)


def _run_task(job: Job, max_requeues: int, needs_parent: bool) -> None:
    main = os.environ.get("SLURM_PROCID", "0") == "0"
    lacking = unfinished_parent(job) if needs_parent else None
    if lacking is not None:
        _give_up(job, jobs.not_started(lacking), main)
    if times_restarted() > max_requeues:
        _give_up(job, restarted_too_often(max_requeues), main)
    if main:
        _name_job(job.key)
    try:
        job.function()
    except TaskInterruptedError:
        if is_cancelled(jobs.task_dir(job)):
            _give_up(job, CANCELLED, main)
        if times_restarted() >= max_requeues:
            _give_up(job, interrupted_too_often(times_restarted() + 1, max_requeues), main)
        requeue_job()
        raise


def unfinished_parent(job: Job) -> str | None:
    """The first job without a result that ``job`` waits for; None where all have theirs.

    Files of another node may be seen late, so one that does not say that it failed gets some time.
    """
    deadline = time.monotonic() + SEEN_SECONDS
    for parent in job.after:
        folder = jobs.task_dir(job).parents[1] / parent
        while not is_finished(folder):
            status = read_status(folder)
            if (status is not None and status.state == "failed") or time.monotonic() > deadline:
                return parent
            time.sleep(PAUSE_SECONDS)
    return None


def times_restarted() -> int:
    """How often Slurm has started this job anew."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def restarted_too_often(max_requeues: int) -> str:
    """Why a task of a job fails that was started too often, for whatever reason."""
    return f"requeued {times_restarted()} times, which is more than cluster.max_requeues={max_requeues}"


def interrupted_too_often(times: int, max_requeues: int) -> str:
    """Why a task fails that was interrupted so many ``times``."""
    return f"timeout: interrupted {times} times, cluster.max_requeues={max_requeues} allows no more"


def requeue_job() -> None:
    """Ask Slurm to requeue this job, and wait to be ended.

    Slurm refuses where it is about to requeue the job itself. Where its controller cannot be reached it is asked again.
    """
    command = ["scontrol", "requeue", _own_id()]
    for _ in range(ATTEMPTS):
        with contextlib.suppress(subprocess.TimeoutExpired):
            if subprocess.run(command, check=False, timeout=ANSWER_SECONDS).returncode == 0:
                time.sleep(KILL_SECONDS)
                return
        time.sleep(PAUSE_SECONDS)


def _own_id() -> str:
    """This job's id; in an array that of the element, as scontrol takes the SLURM_JOB_ID of one for the whole array."""
    env = os.environ
    if "SLURM_ARRAY_JOB_ID" in env:
        return f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
    return env["SLURM_JOB_ID"]


def _name_job(name: str) -> None:
    """Let squeue show the run and task of an array element, where the cluster allows that."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        command = ["scontrol", "update", f"JobId={_own_id()}", f"JobName={name}"]
        subprocess.run(command, check=False, timeout=ANSWER_SECONDS, stderr=subprocess.DEVNULL)


def _give_up(job: Job, reason: str, main: bool) -> None:
    if main:
        jobs.mark(job, "failed", reason)
    raise TaskNotFinishedError(reason)


def doing(pack: Pack, study_dir: Path, submission: int, max_requeues: int) -> Callable[[], None]:
    """The function of the job that does the tasks of ``pack``, submitted by that number; picklable."""
    unfinished = functools.partial(still_to_do, pack.jobs, study_dir.absolute(), submission)
    return functools.partial(_run_pack, pack.jobs, unfinished, pack.width, max_requeues)


def still_to_do(packed: Sequence[Job], study_dir: Path, submission: int) -> list[Job]:
    """The tasks that are still this job's to do: one that failed may have been submitted again, to another job."""
    newest = {key: record.number for record in read_submissions(study_dir) for key in record.keys}
    own = [job for job in packed if newest.get(job.key, submission) == submission]
    return [job for job in own if jobs.state(job) not in ("finished", "failed")]


def _run_pack(packed: Sequence[Job], unfinished: Callable[[], list[Job]], width: int, max_requeues: int) -> None:
    stop = StopRequest()
    todo = unfinished()
    if times_restarted() > max_requeues:
        _end(todo, restarted_too_often(max_requeues))
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
        lacking = None if keys.intersection(job.after) else unfinished_parent(job)
        if lacking is not None:
            for child in jobs.with_dependants([job], todo):
                jobs.end(child, jobs.not_started(lacking if child is job else job.key))
    return [job for job in todo if jobs.state(job) != "failed"]


def _requeue(left: Sequence[Job], max_requeues: int) -> None:
    """Have the job started again for what is ``left`` of its tasks, which were told to stop."""
    if not left:
        return
    if times_restarted() >= max_requeues:
        _end(left, interrupted_too_often(times_restarted() + 1, max_requeues))
    for job in left:
        if jobs.state(job) == "planned":  # it had not made a step
            jobs.mark(job, "submitted")
    requeue_job()
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

    def arriving(self, present: Collection[str]) -> Sequence[Job]:
        """All tasks at first, later those to start again."""
        new, self._new = self._new, []
        return new

    def ended(self, job: Job, error: str | None, *, stopping: bool) -> bool:
        """Decide by the task's own status; see ``LocalQueue``."""
        state = jobs.settle(job, error, stopping=stopping).state
        if state == "preempted" and not stopping:
            self._interrupted[job.key] += 1
            if self._interrupted[job.key] > self._most:
                jobs.end(job, interrupted_too_often(self._interrupted[job.key], self._most))
            else:
                self._new.append(job)
        return state == "finished"

    def skipped(self, job: Job, parent: str) -> None:
        """Let the task fail with its parent, unless that one is started again."""
        if any(again.key == parent for again in self._new):
            self._new.append(job)
        else:
            jobs.end(job, jobs.not_started(parent))
