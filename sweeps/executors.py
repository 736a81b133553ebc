"""A queue of jobs on this machine, through submitit.

submitit's local executor starts whatever it is given at once, shares GPU 0 among all jobs and counts every
end as FINISHED; the queue here adds the limit, the devices, the order and a verdict on each job.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import psutil
import submitit

from sweeps.machine import Slots
from sweeps.schedule import Job, by_chain, is_ready

ROOT = Path(__file__).resolve().parents[1]
POLL_SECONDS = 0.2
STOP_AGAIN_SECONDS = 5.0
WITHOUT_LIMIT_MINUTES = 60 * 24 * 365  # submitit's local executor would end a job after two minutes


class Watcher(Protocol):
    """Who keeps the books while a queue runs."""

    def starting(self, job: Job) -> None:
        """``job`` is about to be handed to submitit."""

    def ended(self, job: Job, error: str | None, *, stopping: bool) -> bool:
        """The process of ``job`` is gone, ``error`` its last words; returns whether the work is done."""

    def skipped(self, job: Job, parent: str) -> None:
        """``job`` will not run because ``parent`` did not finish."""

    def tick(self, running: Sequence[Job]) -> None:
        """Called several times a second."""


class LocalQueue:
    """Runs jobs on this machine, at most ``slots.count`` at once, each after those it waits for.

    Once ``stop_requested`` says yes nothing more is started, and the running jobs get SIGTERM to save what
    they have.
    """

    def __init__(self, slots: Slots, watcher: Watcher, stop_requested: Callable[[], bool] = lambda: False) -> None:
        self._slots, self._watcher, self._stop_requested = slots, watcher, stop_requested
        self._running: dict[int, tuple[Job, submitit.LocalJob[Any]]] = {}
        self._asked_at = 0.0

    def run(self, jobs: Sequence[Job]) -> None:
        """Run ``jobs`` to their end; what came of each is the watcher's to say."""
        self._waiting = by_chain(jobs)
        self._unfinished = {job.key for job in jobs}
        try:
            while self._running or (self._waiting and not self._stop_requested()):
                self._collect()
                if self._stop_requested():
                    self._ask_to_stop()
                else:
                    self._fill()
                self._watcher.tick([job for job, _ in self._running.values()])
                time.sleep(POLL_SECONDS)
        finally:
            self._kill_running()

    def _fill(self) -> None:
        """Start what is ready, costliest chain first, while slots are free."""
        free = [slot for slot in range(self._slots.count) if slot not in self._running]
        ready = [job for job in self._waiting if is_ready(job, self._unfinished)]
        for slot, job in zip(free, ready, strict=False):
            self._waiting.remove(job)
            self._watcher.starting(job)
            self._running[slot] = (job, submit_local(job, self._slots, slot))

    def _collect(self) -> None:
        """Take note of every job that ended."""
        for slot, (job, handle) in list(self._running.items()):
            if handle.done():
                del self._running[slot]
                if self._watcher.ended(job, last_words(handle), stopping=self._stop_requested()):
                    self._unfinished.discard(job.key)
                elif not self._stop_requested():
                    self._skip_dependants(job.key)

    def _skip_dependants(self, parent: str) -> None:
        for job in [job for job in self._waiting if parent in job.after]:
            self._waiting.remove(job)
            self._watcher.skipped(job, parent)
            self._skip_dependants(job.key)

    def _ask_to_stop(self) -> None:
        """SIGTERM through submitit's controllers; repeated, as a process may be deaf while it starts."""
        if time.monotonic() - self._asked_at > STOP_AGAIN_SECONDS:
            self._asked_at = time.monotonic()
            for _, handle in self._running.values():
                os.kill(int(handle.job_id), signal.SIGTERM)

    def _kill_running(self) -> None:
        """Leave nothing behind when the launcher is torn away from its work."""
        for job, handle in self._running.values():
            kill_tree(int(handle.job_id))
            handle.done()  # takes note of the end, so that no zombie stays
            self._watcher.ended(job, "killed by the launcher", stopping=True)


def submit_local(job: Job, slots: Slots, slot: int) -> submitit.LocalJob[Any]:
    """Start ``job`` at once in a process of its own, on the threads and the GPU of ``slot``."""
    executor = submitit.LocalExecutor(fresh_folder(job.folder))
    gpus = [slots.gpus[slot % len(slots.gpus)]] if slots.gpus else []
    executor.update_parameters(timeout_min=WITHOUT_LIMIT_MINUTES, gpus_per_node=len(gpus), visible_gpus=gpus)
    with job_environment({"OMP_NUM_THREADS": str(slots.threads)}), spared_from_the_terminal():
        handle: Any = executor.submit(job.function)
    return handle


def fresh_folder(parent: Path) -> Path:
    """The next numbered folder in ``parent``: an old submission's files would pass for the new one's."""
    used = [int(path.name) for path in parent.glob("*") if path.name.isdigit()]
    return parent.absolute() / str(max(used, default=0) + 1)


@contextlib.contextmanager
def job_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment for processes started meanwhile: ``variables``, and this checkout on the import path."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    before = dict(os.environ)
    os.environ.update(variables, PYTHONPATH=path)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


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
        psutil.wait_procs(family, timeout=STOP_AGAIN_SECONDS)
