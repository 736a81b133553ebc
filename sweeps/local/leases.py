"""Leases of this machine's cores and GPUs, so that the studies of one user do not take the same devices.

A queue knows only its own jobs. The leases of all queues are in one file under a lock. A lease ends with its process,
so a process that dies gives back what it held. Processes that find too little free are served in the order in which
they came: otherwise a task that needs the whole machine would never get it while smaller tasks keep coming.
"""

from __future__ import annotations

import getpass
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

from filelock import FileLock

from nepa_scale.distributed.processes import lives, start_time
from nepa_scale.utils.errors import UserError
from nepa_scale.utils.files import read_json, write_json

PATIENCE_SECONDS = 5.0
"""A process that has not asked for so long is no longer waiting."""
REFRESH_SECONDS = 1.0
POLL_SECONDS = 0.5
GPU = "gpu"
"""Prefix of a GPU's name in the file."""


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

    def in_the_way_of(self, pid: int) -> list[Lease] | None:
        """The leases of devices for which the process ``pid`` waits; None where it waits for none."""
        with self._lock:
            held, claimants = self._read()
        wanted = next((set(claimant.devices) for claimant in claimants if claimant.pid == pid), None)
        return None if wanted is None else [lease for lease in held if wanted & set(lease.devices)]

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
        time.sleep(POLL_SECONDS)
        lease = leases.claim(devices, Fraction(1), len(devices))
    try:
        yield
    finally:
        leases.release(lease)


def waiting_line(held: Sequence[Lease]) -> str:
    """For a queue that waits because of the leases ``held`` by others: for what, and how to go on, in one line."""
    if not held:
        return "waits for its turn: other studies have waited longer for these devices"
    tasks = f"{len(held)} task{'s' if len(held) > 1 else ''} of other studies"
    processes = ", ".join(str(lease.pid) for lease in held)
    cores = [Fraction(lease.fraction) for lease in held if "cores" in lease.devices]
    line = f"waits for {'cores' if cores else 'GPUs'} held by {tasks} (process {processes})"
    if not cores or sum(cores) >= 1:
        return f"{line}; it begins by itself, or at once when nepa-cancel stops those studies"
    slots = math.ceil(1 / (1 - sum(cores)))
    return f"{line}; it begins by itself, or at once beside them if you stop it and launch with cluster.slots={slots}"


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
