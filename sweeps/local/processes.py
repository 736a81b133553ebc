"""A job as processes of this machine, through submitit's local executor.

That executor starts whatever it is given at once, ends it after two minutes and counts every end as FINISHED: the
queue adds the limit and the devices, and judges by what the job left behind. A job of one process that uses no GPU is
forked by a server which has the imports behind it, where there is one; any other has fresh processes.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Sequence
from typing import Any

import psutil
import submitit

from nepa_scale.distributed.process_info import free_port
from nepa_scale.placement.visible_gpus import CUDA, showing
from sweeps.jobs.environment import fresh_folder, job_environment, spared_from_the_terminal
from sweeps.jobs.schedule import Job
from sweeps.local.forking import ForkingExecutor, ForkServer, NoServerError
from sweeps.plan.machine import Slots

WITHOUT_LIMIT_MINUTES = 60 * 24 * 365
KILL_SECONDS = 5.0


def start(job: Job, slots: Slots, gpus: Sequence[str], server: ForkServer | None) -> submitit.LocalJob[Any]:
    """Start ``job`` at once in a slot, on these GPUs."""
    port = {"MASTER_PORT": str(free_port())}
    if server is not None:
        with contextlib.suppress(NoServerError):
            forked: Any = ForkingExecutor(fresh_folder(job.folder), server, port).submit(job.function)
            return forked
    executor = submitit.LocalExecutor(fresh_folder(job.folder))
    executor.update_parameters(
        timeout_min=WITHOUT_LIMIT_MINUTES,
        tasks_per_node=slots.processes,
        gpus_per_node=len(gpus),
    )
    shown = showing(gpus)
    executor.parameters["visible_gpus"] = shown[CUDA].split(",")  # update_parameters takes whole numbers alone
    variables = {"OMP_NUM_THREADS": str(max(1, slots.threads // slots.processes))} | port | shown
    with job_environment(variables), spared_from_the_terminal():
        handle: Any = executor.submit(job.function)
    return handle


def last_words(handle: submitit.LocalJob[Any]) -> str | None:
    """None when the job's function returned; else the last line of its traceback, or that it left none."""
    try:
        outcome, content = pickle.loads(handle.paths.result_pickle.read_bytes())  # noqa: S301  of our own job's folder
    except FileNotFoundError:
        return "the process ended without a word: killed from outside, or out of memory"
    return None if outcome == "success" else str(content).strip().splitlines()[-1]


def kill_tree(pid: int) -> None:
    """Kill a process and all below it, and wait for their end."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        family = [*process.children(recursive=True), process]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=KILL_SECONDS)
