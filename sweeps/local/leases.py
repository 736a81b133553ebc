"""Who works on which device of this machine, over all studies of this user.

Each queue knows its own jobs only; this book, a file under a lock, keeps two studies from taking the same cores or
GPUs. An entry counts as long as its process lives, so that whatever dies gives back what it had. Who finds too little
free waits in turn: otherwise a task that needs the whole machine would never find it empty among small ones.
"""

from __future__ import annotations

import getpass
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

from filelock import FileLock

from nepa_scale.distributed.living import lives, start_time
from nepa_scale.utils.errors import UserError
from nepa_scale.utils.files import read_json, write_json

PATIENCE_SECONDS = 5.0
"""A queue that has not asked for so long does not wait any more."""
REFRESH_SECONDS = 1.0
POLL_SECONDS = 0.5
GPU = "gpu"
"""What the name of a GPU begins with in the book."""


@dataclass(frozen=True)
class Lease:
    """A fraction of some devices of this machine, held by a process (``started``: when that began, s since 1970)."""

    devices: tuple[str, ...]
    fraction: str
    pid: int
    started: float


@dataclass(frozen=True)
class Claimant:
    """A process that waits ``since`` then for some of ``devices``, and asked last at ``asked`` (s since 1970)."""

    devices: tuple[str, ...]
    pid: int
    started: float
    since: float
    asked: float


class LeaseBook:
    """The shares of this machine's devices that are taken; ``folder`` is where the book lies."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(tempfile.gettempdir()) / f"nepa_scale-{_user()}"
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = self.folder / "book.json"
        self._lock = FileLock(self.folder / "book.lock")

    def claim(self, devices: Sequence[str], fraction: Fraction, count: int = 1) -> Lease | None:
        """Take ``fraction`` of ``count`` of the ``devices`` for this process; None where so much is not free, or others
        have waited longer. Asking again keeps the turn."""
        with self._lock:
            held, wishes = self._read()
            mine = next((wish for wish in wishes if wish.pid == os.getpid()), None)
            others = [wish for wish in wishes if wish is not mine]
            earlier = [wish for wish in others if set(wish.devices) & set(devices)]
            if mine is not None:
                earlier = [wish for wish in earlier if wish.since < mine.since]
            free = [] if earlier else _free(held, devices, fraction)
            if len(free) < count:
                self._wait(held, others, mine, tuple(devices))
                return None
            share = Lease(tuple(free[:count]), str(fraction), *_me())
            self._write([*held, share], others)
            return share

    def hand_over(self, share: Lease, pid: int) -> Lease:
        """Let another process hold the share, for as long as that lives."""
        given = Lease(share.devices, share.fraction, pid, start_time(pid) or 0.0)
        self._replace(share, [given])
        return given

    def release(self, share: Lease) -> None:
        """Give the share back."""
        self._replace(share, [])

    def _wait(self, held: list[Lease], others: list[Claimant], mine: Claimant | None, devices: tuple[str, ...]) -> None:
        now = time.time()
        if mine is None or now - mine.asked > REFRESH_SECONDS:
            wish = Claimant(devices, *_me(), since=mine.since if mine else now, asked=now)
            self._write(held, [*others, wish])

    def _replace(self, share: Lease, by: list[Lease]) -> None:
        with self._lock:
            held, wishes = self._read()
            if share in held:
                held.remove(share)
            self._write([*held, *by], wishes)

    def _read(self) -> tuple[list[Lease], list[Claimant]]:
        """What is held and wished for by processes that live."""
        try:
            content = read_json(self._path)
        except (FileNotFoundError, json.JSONDecodeError):
            return [], []
        held = [Lease(**(entry | {"devices": tuple(entry["devices"])})) for entry in content["held"]]
        wishes = [Claimant(**(entry | {"devices": tuple(entry["devices"])})) for entry in content["wishes"]]
        patient = [wish for wish in wishes if time.time() - wish.asked < PATIENCE_SECONDS]
        return [each for each in held if lives(each.pid, each.started)], [
            each for each in patient if lives(each.pid, each.started)
        ]

    def _write(self, held: Sequence[Lease], wishes: Sequence[Claimant]) -> None:
        write_json(self._path, {"held": [asdict(each) for each in held], "wishes": [asdict(each) for each in wishes]})


@contextmanager
def whole_machine(gpus: Sequence[str]) -> Iterator[None]:
    """Hold all ``gpus``, or without any all cores, against every queue of this user; running tasks are waited for."""
    book = LeaseBook()
    devices = [f"{GPU}{name}" for name in gpus] or ["cores"]
    share = book.claim(devices, Fraction(1), len(devices))
    if share is None:
        print("waiting until tasks of other studies have ended: beside them, times would come out too long", flush=True)
    while share is None:
        time.sleep(POLL_SECONDS)
        share = book.claim(devices, Fraction(1), len(devices))
    try:
        yield
    finally:
        book.release(share)


def _free(held: Sequence[Lease], devices: Sequence[str], fraction: Fraction) -> list[str]:
    """The ``devices`` that have room for ``fraction``, emptiest first."""
    taken = {device: Fraction(0) for device in devices}
    for share in held:
        for device in set(share.devices) & set(taken):
            taken[device] += Fraction(share.fraction)
    return sorted((device for device in devices if taken[device] + fraction <= 1), key=lambda name: taken[name])


def check_folder() -> None:
    """Raises ``UserError`` where the book cannot be kept."""
    try:
        book = LeaseBook()
        with tempfile.TemporaryFile(dir=book.folder):
            return
    except OSError as error:
        where = error.filename or "there is no folder for temporary files"
        raise UserError(
            f"{where}: queues cannot keep their book of shares ({error.strerror}); set TMPDIR to a folder that you may"
            " write to"
        ) from error


def _user() -> str:
    """The user's name, or number where a container has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _me() -> tuple[int, float]:
    return os.getpid(), start_time(os.getpid()) or 0.0
