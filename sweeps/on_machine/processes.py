"""A job as processes of this machine, through submitit's local executor.

That executor starts whatever it is given at once, ends it after two minutes and counts every end as FINISHED: the
queue adds the limit and the devices, and judges by what the job left behind.
"""

from __future__ import annotations

import contextlib
import pickle
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import psutil
import submitit

from nepa_scale.placing.visible_gpus import CUDA, showing
from nepa_scale.processes.free_port import free_port
from sweeps.handing_over import fresh_folder, job_environment
from sweeps.schedule import Job

WITHOUT_LIMIT_MINUTES = 60 * 24 * 365
KILL_SECONDS = 5.0


def start(job: Job, *, processes: int, threads: int, gpus: Sequence[str]) -> submitit.LocalJob[Any]:
    """Start ``job`` at once, in ``processes`` ranks of ``threads`` threads, on these GPUs."""
    executor = submitit.LocalExecutor(fresh_folder(job.folder))
    executor.update_parameters(
        timeout_min=WITHOUT_LIMIT_MINUTES,
        tasks_per_node=processes,
        gpus_per_node=len(gpus),
    )
    shown = showing(gpus)
    executor.parameters["visible_gpus"] = shown[CUDA].split(",")  # update_parameters takes whole numbers alone
    variables = {"OMP_NUM_THREADS": str(threads), "MASTER_PORT": str(free_port())} | shown
    with job_environment(variables), spared_from_the_terminal():
        handle: Any = executor.submit(job.function)
    return handle


@contextlib.contextmanager
def spared_from_the_terminal() -> Iterator[None]:
    """Let processes started meanwhile ignore Ctrl-C and hang-up of the terminal.

    Both reach a whole process group, and submitit's controller would then kill its job within a second,
    before it has saved. The queue alone tells jobs to stop.
    """
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
