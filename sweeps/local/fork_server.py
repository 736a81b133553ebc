"""A process that has imported what tasks need and forks one for each: ``python -m sweeps.local.fork_server FD``.

A forked task need not import torch and DeepSpeed again, which takes longer than some tasks train. The server only
imports and forks. It creates no process group and computes nothing, so a task starts in the state of a new process
after its imports. It serves CPU tasks only: CUDA cannot be used in a fork of a process that has initialised it.

The server sends a message over the connection ``FD`` when it is ready, and answers each request with the pid of a
task. When the connection ends, the queue is gone: the server then tells running tasks to save, waits for them and ends.
"""

from __future__ import annotations

import atexit
import os

if __name__ == "__main__":
    # Ends a task at once, after all other exit handlers, as the first one registered runs last. Otherwise Python would
    # free a task's memory object by object, and so copy every page that it shares with the server.
    atexit.register(os._exit, 0)

import contextlib
import gc
import importlib
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import NamedTuple

import psutil
from submitit.core.submission import process_job
from submitit.core.utils import JobPaths

from nepa_scale.distributed.process_group import import_libraries

#: Modules that the trainer imports late, once it knows its task and settings.
PRELOADED = (
    "nepa_scale.train",
    "nepa_scale.training.runner",
    "nepa_scale.training.trainer",
    "nepa_scale.tasks.pretrain",
    "nepa_scale.tasks.probe",
    "nepa_scale.tasks.classify",
    "nepa_scale.tasks.segment",
    "nepa_scale.visualise.strips",
    "torch.utils.tensorboard",
)
STOP_AGAIN_SECONDS = 5.0
SUBMISSION_SECONDS = 60.0
POLL_SECONDS = 0.005


class Request(NamedTuple):
    """A job to start: submitit's folder of it, and the environment variables in which it differs from the server."""

    folder: str
    variables: dict[str, str]


def main(arguments: Sequence[str]) -> None:
    """Serve the connection whose file descriptor is in ``arguments``; in a process forked for it, run the job."""
    with Connection(int(arguments[0])) as connection:
        if import_libraries():
            raise RuntimeError("tasks on GPUs are not forked: this process has looked for them")
        for name in PRELOADED:
            importlib.import_module(name)
        gc.freeze()  # so that a task's garbage collector leaves shared pages alone, too
        request = _serve(connection)
    if request is None:
        _stop_tasks()
    else:
        _run(request)


def _serve(connection: Connection) -> Request | None:
    """Fork a process for each request. Returns the request in that process, and None in the server at the end."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that the system removes ended tasks
    connection.send(os.getpid())
    while True:
        try:
            request = Request(*connection.recv())
        except (EOFError, OSError):
            return None
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return request
        connection.send(pid)


def _stop_tasks() -> None:
    """Send SIGTERM until the last task has ended; repeatedly, as a task may not handle it yet while it starts."""
    while tasks := psutil.Process().children():
        for task in tasks:
            with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended by itself
                task.terminate()
        psutil.wait_procs(tasks, timeout=STOP_AGAIN_SECONDS)


def _run(request: Request) -> None:
    """Run the job in this process, as submitit would in a new one."""
    os.environ.update(request.variables, SUBMITIT_LOCAL_JOB_ID=str(os.getpid()))
    sys.argv = [sys.argv[0], request.folder]
    paths = JobPaths(request.folder, job_id=str(os.getpid()), task_id=0)
    with paths.stdout.open("ab") as out, paths.stderr.open("ab") as err:
        os.dup2(out.fileno(), sys.stdout.fileno())
        os.dup2(err.fileno(), sys.stderr.fileno())
    deadline = time.monotonic() + SUBMISSION_SECONDS
    while not paths.submitted_pickle.exists() and time.monotonic() < deadline:  # submitit would look once a second
        time.sleep(POLL_SECONDS)
    process_job(request.folder)


if __name__ == "__main__":
    main(sys.argv[1:])
