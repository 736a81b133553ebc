"""Starting the processes of a job on this machine, by submitit's local executor or as forks of ``fork_server.py``.

submitit's executor starts every job at once, ends it after two minutes and reports every end as FINISHED. So the queue
sets the time limit and the devices, and judges a job by the files that it left. A job of one process without a GPU is
forked by a server that has already imported torch and DeepSpeed; any other job gets new processes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import psutil
import submitit

from nepa_scale.distributed.processes import free_port, lives, start_time
from nepa_scale.placement.devices import CUDA, showing
from sweeps.jobs.jobs import Job
from sweeps.jobs.task import environment_of_job, fresh_folder, ignoring_terminal_signals, job_environment
from sweeps.plan.machine import Slots

WITHOUT_LIMIT_MINUTES = 60 * 24 * 365
KILL_SECONDS = 5.0
LEAVE_SECONDS = 10.0
POLL_SECONDS = 0.02
#: The variables that submitit's controller sets for the only process of a job.
ALONE = {
    "SUBMITIT_EXECUTOR": "local",
    "SUBMITIT_LOCAL_NTASKS": "1",
    "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
    "SUBMITIT_LOCAL_NODEID": "0",
    "SUBMITIT_LOCAL_LOCALID": "0",
    "SUBMITIT_LOCAL_GLOBALID": "0",
}


def start(job: Job, slots: Slots, gpus: Sequence[str], server: ForkServer | None) -> submitit.LocalJob[Any]:
    """Start ``job`` at once in a slot, on these ``gpus``; forked by ``server`` where one is ready."""
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
    with job_environment(variables), ignoring_terminal_signals():
        handle: Any = executor.submit(job.function)
    return handle


def last_words(handle: submitit.LocalJob[Any]) -> str | None:
    """None if the job's function returned; else the last line of its traceback, or a text where it left none."""
    try:
        outcome, content = pickle.loads(handle.paths.result_pickle.read_bytes())  # noqa: S301  written by our own job
    except FileNotFoundError:
        return "the process ended without a word: killed from outside, or out of memory"
    return None if outcome == "success" else str(content).strip().splitlines()[-1]


def kill_tree(pid: int) -> None:
    """Kill a process with all its descendants, and wait for their end."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        tree = [*process.children(recursive=True), process]
        for member in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(tree, timeout=KILL_SECONDS)


@contextlib.contextmanager
def fork_server(slots: Slots) -> Iterator[ForkServer | None]:
    """A server that forks jobs of these slots; None where their jobs need new processes."""
    if not slots.forks:
        yield None
        return
    server = ForkServer(slots.threads)
    try:
        yield server
    finally:
        server.leave()


class NoServerError(Exception):
    """The server has ended, or never came up."""


class ForkServer:
    """Forks jobs of ``threads`` CPU threads each. Its process starts on first use, and again if it has ended.

    A process that ends before it is ready is not started again: jobs then get new processes, and the log of the queue
    has the reason.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None
        self._is_ready = self._is_broken = False

    @property
    def pid(self) -> int | None:
        """The server's process; None while there is none."""
        return None if self._process is None else self._process.pid

    def is_loading(self) -> bool:
        """Whether the server is still importing, so that a job should wait for it."""
        if self._is_ready and self._process is not None and self._process.poll() is not None:
            self.leave()
        if self._is_ready or self._is_broken:
            return False
        if self._connection is None:
            self._connection = self._start()
        if self._connection.poll():
            try:
                self._connection.recv()
                self._is_ready = True
            except (EOFError, OSError):
                self._is_broken = True
                self.leave()
        return not (self._is_ready or self._is_broken)

    def wait(self) -> None:
        """Wait until the server is ready or has failed."""
        while self.is_loading():
            time.sleep(POLL_SECONDS)

    def fork(self, folder: Path, variables: Mapping[str, str]) -> int:
        """Start the job that is submitted to ``folder``, with ``variables`` in its environment; returns its pid.

        Raises ``NoServerError`` where no server is ready.
        """
        if self._connection is None or not self._is_ready:
            raise NoServerError
        try:
            self._connection.send((str(folder), dict(variables)))
            return int(self._connection.recv())
        except (EOFError, OSError) as error:
            self.leave()
            raise NoServerError from error

    def leave(self) -> None:
        """Close the connection, upon which the server ends, and wait for that.

        One that is still importing would not notice for seconds, and has no tasks yet: it is killed.
        """
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            if not self._is_ready:
                self._process.kill()
            try:
                self._process.wait(LEAVE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process, self._connection, self._is_ready = None, None, False

    def _start(self) -> Connection[Any, Any]:
        ours, theirs = multiprocessing.Pipe()
        variables = {"OMP_NUM_THREADS": str(self._threads)} | showing([])
        with theirs, ignoring_terminal_signals():
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-m", "sweeps.local.fork_server", str(theirs.fileno())],
                env=environment_of_job(variables),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        return ours


@dataclass(frozen=True)
class ForkedProcess:
    """The process of a job, a child of the server, with the methods of ``Popen`` that submitit's ``LocalJob`` calls."""

    pid: int
    started: float

    def poll(self) -> int | None:
        """None while it lives, then 0; the files of the job say how it ended."""
        return None if lives(self.pid, self.started) else 0

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


class ForkingExecutor(submitit.LocalExecutor):
    """submitit's local executor for jobs of one process, which ``server`` forks in place of submitit's controller."""

    def __init__(self, folder: Path, server: ForkServer, variables: Mapping[str, str]) -> None:
        super().__init__(folder)
        self._server, self._variables = server, variables

    def _submit_command(self, command: str) -> submitit.LocalJob[Any]:
        pid = self._server.fork(Path(self.folder), {**self._variables, **ALONE})
        process = ForkedProcess(pid, start_time(pid) or 0.0)
        return submitit.LocalJob(self.folder, str(pid), process=cast(Any, process))
