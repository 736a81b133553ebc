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

from nepa_scale.run_dir.status import Status, read_status, write_status
from sweeps.jobs.task import CANCELLED, TaskInterruptedError, TaskNotFinishedError, is_cancelled

ANSWER_SECONDS = 60
ATTEMPTS, PAUSE_SECONDS = 3, 5
KILL_SECONDS = 120


def requeueing(function: Callable[[], object], task_dir: Path, max_requeues: int) -> Callable[[], None]:
    """``function``, which does the task in ``task_dir``, requeued when it is interrupted; picklable."""
    return functools.partial(_run, function, str(task_dir), max_requeues)


def _run(function: Callable[[], object], directory: str, max_requeues: int) -> None:
    task_dir, main = Path(directory), os.environ.get("SLURM_PROCID", "0") == "0"
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    if restarts > max_requeues:
        _give_up(task_dir, f"requeued {restarts} times, which is more than cluster.max_requeues={max_requeues}", main)
    if main:
        _name_job(f"{task_dir.parent.name}/{task_dir.name}")
    try:
        function()
    except TaskInterruptedError:
        if is_cancelled(task_dir):
            _give_up(task_dir, CANCELLED, main)
        if restarts >= max_requeues:
            reason = f"timeout: interrupted {restarts + 1} times, cluster.max_requeues={max_requeues} allows no more"
            _give_up(task_dir, reason, main)
        _requeue()
        raise


def _requeue() -> None:
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
