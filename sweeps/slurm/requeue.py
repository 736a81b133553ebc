"""Inside a Slurm job: run the task, and requeue the job when the task was interrupted, up to a number of times.

Slurm requeues a job itself after a lost node, and after preemption where it is set up so. It does not after the time
limit, and a job that saves and ends within the grace time of a preemption counts as ended. So the job asks for it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from nepa_scale.run_dir.run_folder import is_finished
from nepa_scale.run_dir.status import Status, read_status, write_status
from sweeps.jobs import jobs
from sweeps.jobs.jobs import Job
from sweeps.jobs.task import CANCELLED, TaskInterruptedError, TaskNotFinishedError, is_cancelled

ANSWER_SECONDS = 60
ATTEMPTS, PAUSE_SECONDS = 3, 5
KILL_SECONDS = 120
SEEN_SECONDS = 60


def requeueing(job: Job, max_requeues: int, *, needs_parent: bool) -> Callable[[], None]:
    """The function of ``job``, requeued when it is interrupted; picklable.

    ``needs_parent``: Slurm has only waited for the end of the job that did what this one needs, so look at its result.
    """
    return functools.partial(_run, job, max_requeues, needs_parent)


def _run(job: Job, max_requeues: int, needs_parent: bool) -> None:
    task_dir, main = jobs.task_dir(job), os.environ.get("SLURM_PROCID", "0") == "0"
    lacking = unfinished_parent(job) if needs_parent else None
    if lacking is not None:
        _give_up(task_dir, jobs.not_started(lacking), main)
    if times_restarted() > max_requeues:
        _give_up(task_dir, restarted_too_often(max_requeues), main)
    if main:
        _name_job(job.key)
    try:
        job.function()
    except TaskInterruptedError:
        if is_cancelled(task_dir):
            _give_up(task_dir, CANCELLED, main)
        if times_restarted() >= max_requeues:
            _give_up(task_dir, interrupted_too_often(times_restarted() + 1, max_requeues), main)
        requeue_job()
        raise


def unfinished_parent(job: Job) -> str | None:
    """The first job without a result that ``job`` waits for; None where all have theirs.

    Files of another node may be seen late, so one that does not say that it failed gets some time.
    """
    deadline = time.monotonic() + SEEN_SECONDS
    for parent in job.after:
        folder = jobs.parent_dir(job, parent)
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


def _give_up(task_dir: Path, reason: str, main: bool) -> None:
    if main:
        before = read_status(task_dir) or Status("failed")
        write_status(task_dir, Status("failed", before.step, before.steps_total, before.attempt, reason))
    raise TaskNotFinishedError(reason)
