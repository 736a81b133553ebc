"""A queue of jobs on this machine: never more than the slots, each job after those it waits for."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import submitit

from sweeps.jobs.jobs import Job, by_chain, task_dir
from sweeps.jobs.task import is_cancelled
from sweeps.local import processes
from sweeps.local.leases import GPU, Lease, Leases
from sweeps.local.processes import ForkServer
from sweeps.plan.machine import Slots

POLL_SECONDS = 0.2
STOP_AGAIN_SECONDS = 5.0


class Watcher(Protocol):
    """What a queue asks for jobs, and tells how they ended."""

    def arriving(self, present: Collection[str]) -> Sequence[Job]:
        """Jobs that were added since the last call; ``present`` are the keys of those that wait or run."""

    def ended(self, job: Job, error: str | None, *, stopping: bool) -> bool:
        """The process of ``job`` has ended, with ``error`` or None; returns whether the job is finished."""

    def skipped(self, job: Job, parent: str) -> None:
        """``job`` will not run, because ``parent`` did not finish."""


@dataclass
class Running:
    """A running job, with its lease of devices."""

    job: Job
    handle: submitit.LocalJob[Any]
    lease: Lease
    asked_at: float = 0.0

    def ask_to_stop(self) -> None:
        """Send SIGTERM, again every few seconds, as a process may not handle it yet while it starts."""
        if time.monotonic() - self.asked_at > STOP_AGAIN_SECONDS:
            self.asked_at = time.monotonic()
            with contextlib.suppress(ProcessLookupError):  # it may have ended since it was last looked at
                os.kill(int(self.handle.job_id), signal.SIGTERM)


class LocalQueue:
    """Runs jobs on this machine, at most ``slots.count`` at once, and no more than the leases of other queues allow.

    Once ``stop_requested()`` is true no job is started, and running jobs get SIGTERM, upon which they save. With a
    ``server``, jobs are forked by it.
    """

    def __init__(
        self,
        slots: Slots,
        watcher: Watcher,
        stop_requested: Callable[[], bool] = lambda: False,
        leases: Leases | None = None,
        server: ForkServer | None = None,
    ) -> None:
        self._slots, self._watcher, self._stop_requested = slots, watcher, stop_requested
        self._leases = leases or Leases()
        self._server = server
        self._waiting: list[Job] = []
        self._unfinished: set[str] = set()
        self._running: list[Running] = []

    def run(self) -> None:
        """Run jobs until none is left; the watcher records how each ended."""
        try:
            while self._go_on():
                self._collect()
                self._stop_cancelled()
                if not self._stop_requested():
                    self._fill()
                time.sleep(POLL_SECONDS)
        finally:
            self._kill_running()

    def _go_on(self) -> bool:
        """Add new jobs; returns whether anything is left to do."""
        if not self._stop_requested():
            self._admit()
        return bool(self._running or (self._waiting and not self._stop_requested()))

    def _admit(self) -> None:
        known = {job.key for job in self._waiting} | {running.job.key for running in self._running}
        new = [job for job in self._watcher.arriving(known) if job.key not in known]
        if new:
            self._waiting = by_chain([*self._waiting, *new])
            self._unfinished |= {job.key for job in new}

    def _fill(self) -> None:
        """Start jobs that are ready, costliest chain first, while slots and devices are free."""
        for job in [job for job in self._waiting if self._unfinished.isdisjoint(job.after)]:
            if is_cancelled(task_dir(job)):
                self._waiting.remove(job)
                self._end(job, None)
                continue
            if len(self._running) >= self._slots.count or (self._server is not None and self._server.is_loading()):
                return
            lease = self._claim()
            if lease is None:
                return
            self._waiting.remove(job)
            self._start(job, lease)

    def _claim(self) -> Lease | None:
        gpus, needed = self._slots.gpus, self._slots.processes
        if not gpus:
            return self._leases.claim(["cores"], Fraction(1, self._slots.count))
        crowd = max(1, -(-self._slots.count * needed // len(gpus)))
        return self._leases.claim([f"{GPU}{name}" for name in gpus], Fraction(1, crowd), min(needed, len(gpus)))

    def _start(self, job: Job, lease: Lease) -> None:
        gpus = [device.removeprefix(GPU) for device in lease.devices if device.startswith(GPU)]
        handle = processes.start(job, self._slots, gpus, self._server)
        self._running.append(Running(job, handle, self._leases.hand_over(lease, int(handle.job_id))))

    def _collect(self) -> None:
        """Remove the running jobs that have ended."""
        for running in [running for running in self._running if running.handle.done()]:
            self._running.remove(running)
            self._leases.release(running.lease)
            self._end(running.job, processes.last_words(running.handle))

    def _end(self, job: Job, error: str | None) -> None:
        if self._watcher.ended(job, error, stopping=self._stop_requested()):
            self._unfinished.discard(job.key)
        elif not self._stop_requested():
            self._skip_dependants(job.key)

    def _skip_dependants(self, parent: str) -> None:
        for job in [job for job in self._waiting if parent in job.after]:
            self._waiting.remove(job)
            self._watcher.skipped(job, parent)
            self._skip_dependants(job.key)

    def _stop_cancelled(self) -> None:
        for running in self._running:
            if self._stop_requested() or is_cancelled(task_dir(running.job)):
                running.ask_to_stop()

    def _kill_running(self) -> None:
        """Kill the running jobs where the queue ends by an exception."""
        for running in self._running:
            processes.kill_tree(int(running.handle.job_id))
            running.handle.done()  # collects the exit status, so that no zombie is left
            self._leases.release(running.lease)
            self._watcher.ended(running.job, "killed with its queue", stopping=True)
