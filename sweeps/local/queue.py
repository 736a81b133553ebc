"""A queue of jobs on this machine: never more than the slots, each job after those it waits for, on devices that it
leases.

A queue knows only its own jobs. The leases of all queues, so that the studies of one user do not take the same cores
and GPUs, are in one file under a lock. A lease ends with its process, so a process that dies gives back what it held.
Processes that find too little free are served in the order in which they came: otherwise a task that needs the whole
machine would never get it while smaller tasks keep coming.
"""

from __future__ import annotations

import getpass
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import submitit
from filelock import FileLock

from nepa_scale.distributed.processes import lives, start_time
from nepa_scale.utils.errors import UserError
from nepa_scale.utils.files import read_json, write_json
from sweeps.jobs.jobs import Job, by_chain, is_ready, without_orphans
from sweeps.local import processes
from sweeps.local.processes import ForkServer
from sweeps.plan.machine import Slots

PATIENCE_SECONDS = 5.0
"""A process that has not asked for so long is no longer waiting."""
REFRESH_SECONDS = 1.0
CLAIM_SECONDS = 0.5
GPU = "gpu"
"""Prefix of a GPU's name in the file."""
POLL_SECONDS = 0.2
STOP_AGAIN_SECONDS = 5.0


@dataclass(frozen=True)
class Lease:
    """A fraction of some devices, held by the process ``pid`` that began at ``started`` (seconds since 1970)."""

    devices: tuple[str, ...]
    fraction: str
    pid: int
    started: float


@dataclass(frozen=True)
class Claimant:
    """A process that waits for some of ``devices`` since ``since`` and last asked at ``asked`` (seconds since 1970)."""

    devices: tuple[str, ...]
    pid: int
    started: float
    since: float
    asked: float


class Leases:
    """The leases of this machine's devices, in a file in ``folder``."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(tempfile.gettempdir()) / f"nepa_scale-{_user()}"
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = self.folder / "book.json"
        self._lock = FileLock(self.folder / "book.lock")

    def claim(self, devices: Sequence[str], fraction: Fraction, count: int = 1) -> Lease | None:
        """Take ``fraction`` of ``count`` of the ``devices`` for this process.

        Returns None where so much is not free, or others have waited longer. A process that asks again keeps its turn.
        """
        with self._lock:
            held, claimants = self._read()
            mine = next((claimant for claimant in claimants if claimant.pid == os.getpid()), None)
            others = [claimant for claimant in claimants if claimant is not mine]
            earlier = [claimant for claimant in others if set(claimant.devices) & set(devices)]
            if mine is not None:
                earlier = [claimant for claimant in earlier if claimant.since < mine.since]
            free = [] if earlier else _free(held, devices, fraction)
            if len(free) < count:
                self._wait(held, others, mine, tuple(devices))
                return None
            lease = Lease(tuple(free[:count]), str(fraction), *_me())
            self._write([*held, lease], others)
            return lease

    def hand_over(self, lease: Lease, pid: int) -> Lease:
        """Pass the lease on to another process."""
        passed_on = Lease(lease.devices, lease.fraction, pid, start_time(pid) or 0.0)
        self._replace(lease, [passed_on])
        return passed_on

    def release(self, lease: Lease) -> None:
        """End the lease."""
        self._replace(lease, [])

    def _wait(self, held: list[Lease], others: list[Claimant], mine: Claimant | None, devices: tuple[str, ...]) -> None:
        """Write down that this process waits, or still does."""
        now = time.time()
        if mine is None or now - mine.asked > REFRESH_SECONDS:
            self._write(held, [*others, Claimant(devices, *_me(), since=mine.since if mine else now, asked=now)])

    def _replace(self, lease: Lease, by: list[Lease]) -> None:
        with self._lock:
            held, claimants = self._read()
            if lease in held:
                held.remove(lease)
            self._write([*held, *by], claimants)

    def _read(self) -> tuple[list[Lease], list[Claimant]]:
        """The leases and claimants whose processes live."""
        try:
            content = read_json(self._path)
        except (FileNotFoundError, json.JSONDecodeError):
            return [], []
        held = [Lease(**(entry | {"devices": tuple(entry["devices"])})) for entry in content["held"]]
        claimants = [Claimant(**(entry | {"devices": tuple(entry["devices"])})) for entry in content["wishes"]]
        held = [lease for lease in held if lives(lease.pid, lease.started)]
        patient = [claimant for claimant in claimants if time.time() - claimant.asked < PATIENCE_SECONDS]
        return held, [claimant for claimant in patient if lives(claimant.pid, claimant.started)]

    def _write(self, held: Sequence[Lease], claimants: Sequence[Claimant]) -> None:
        write_json(self._path, {"held": list(map(asdict, held)), "wishes": list(map(asdict, claimants))})


@contextmanager
def whole_machine(gpus: Sequence[str]) -> Iterator[None]:
    """Hold all ``gpus``, or all cores where there are none, after running tasks have ended. For measurements."""
    leases = Leases()
    devices = [f"{GPU}{name}" for name in gpus] or ["cores"]
    lease = leases.claim(devices, Fraction(1), len(devices))
    if lease is None:
        print("waiting until tasks of other studies have ended: beside them, times would come out too long", flush=True)
    while lease is None:
        time.sleep(CLAIM_SECONDS)
        lease = leases.claim(devices, Fraction(1), len(devices))
    try:
        yield
    finally:
        leases.release(lease)


def _free(held: Sequence[Lease], devices: Sequence[str], fraction: Fraction) -> list[str]:
    """The ``devices`` of which ``fraction`` is free, those least in use first."""
    taken = {device: Fraction(0) for device in devices}
    for lease in held:
        for device in set(lease.devices) & set(taken):
            taken[device] += Fraction(lease.fraction)
    return sorted((device for device in devices if taken[device] + fraction <= 1), key=lambda name: taken[name])


def check_folder() -> None:
    """Raises ``UserError`` where the file of leases cannot be kept."""
    try:
        leases = Leases()
        with tempfile.TemporaryFile(dir=leases.folder):
            return
    except OSError as error:
        where = error.filename or "there is no folder for temporary files"
        raise UserError(
            f"{where}: queues cannot keep their leases ({error.strerror}); set TMPDIR to a folder that you may write to"
        ) from error


def _user() -> str:
    """The user's name, or their number where the system has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _me() -> tuple[int, float]:
    return os.getpid(), start_time(os.getpid()) or 0.0


class Watcher(Protocol):
    """What a queue asks for jobs, and tells how they ended."""

    def arriving(self) -> Sequence[Job]:
        """Jobs that were added since the last call."""

    def is_cancelled(self, job: Job) -> bool:
        """Whether a user has cancelled ``job``."""

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
            self._admit(self._watcher.arriving())
        return bool(self._running or (self._waiting and not self._stop_requested()))

    def _admit(self, jobs: Sequence[Job]) -> None:
        known = {job.key for job in self._waiting} | {running.job.key for running in self._running}
        # What a new job waits for may be running already. Nobody here would start what another queue has to do first.
        new = without_orphans([job for job in jobs if job.key not in known], present=known)
        if new:
            self._waiting = by_chain([*self._waiting, *new])
            self._unfinished |= {job.key for job in new}

    def _fill(self) -> None:
        """Start jobs that are ready, costliest chain first, while slots and devices are free."""
        for job in [job for job in self._waiting if is_ready(job, self._unfinished)]:
            if self._watcher.is_cancelled(job):
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
            if self._stop_requested() or self._watcher.is_cancelled(running.job):
                running.ask_to_stop()

    def _kill_running(self) -> None:
        """Kill the running jobs where the queue ends by an exception."""
        for running in self._running:
            processes.kill_tree(int(running.handle.job_id))
            running.handle.done()  # collects the exit status, so that no zombie is left
            self._leases.release(running.lease)
            self._watcher.ended(running.job, "killed with its queue", stopping=True)
