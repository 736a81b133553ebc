"""Who works on which device of this machine, over all studies of this user.

Each queue knows its own jobs only; this book, a file under a lock, keeps two studies from taking the same cores or
GPUs. An entry counts as long as its process lives, so that whatever dies gives back what it had.
"""

from __future__ import annotations

import getpass
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

from filelock import FileLock

from nepa_scale.files import read_json, write_json
from nepa_scale.processes.living import lives, start_time


@dataclass(frozen=True)
class Share:
    """A fraction of some devices of this machine, held by a process (``started``: when that began, s since 1970)."""

    devices: tuple[str, ...]
    fraction: str
    pid: int
    started: float


class SharesBook:
    """The shares of this machine's devices that are taken; ``folder`` is where the book lies."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or Path(tempfile.gettempdir()) / f"nepa_scale-{getpass.getuser()}"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = self._folder / "shares.json"
        self._lock = FileLock(self._folder / "shares.lock")

    def claim(self, devices: Sequence[str], fraction: Fraction, count: int = 1) -> Share | None:
        """Take ``fraction`` of ``count`` of the ``devices`` for this process; None where so much is not free."""
        with self._lock:
            held = self._held()
            taken = {device: Fraction(0) for device in devices}
            for share in held:
                for device in set(share.devices) & set(taken):
                    taken[device] += Fraction(share.fraction)
            free = sorted((device for device in devices if taken[device] + fraction <= 1), key=lambda name: taken[name])
            if len(free) < count:
                return None
            mine = _share(tuple(free[:count]), str(fraction), os.getpid())
            self._write([*held, mine])
            return mine

    def hand_over(self, share: Share, pid: int) -> Share:
        """Let another process hold the share, for as long as that lives."""
        given = _share(share.devices, share.fraction, pid)
        self._replace(share, [given])
        return given

    def release(self, share: Share) -> None:
        """Give the share back."""
        self._replace(share, [])

    def _replace(self, share: Share, by: list[Share]) -> None:
        with self._lock:
            held = self._held()
            if share in held:
                held.remove(share)
            self._write([*held, *by])

    def _held(self) -> list[Share]:
        try:
            entries = read_json(self._path)
        except (FileNotFoundError, json.JSONDecodeError):
            return []
        shares = [Share(**(entry | {"devices": tuple(entry["devices"])})) for entry in entries]
        return [share for share in shares if lives(share.pid, share.started)]

    def _write(self, shares: Sequence[Share]) -> None:
        write_json(self._path, [asdict(share) for share in shares])


def _share(devices: tuple[str, ...], fraction: str, pid: int) -> Share:
    return Share(devices, fraction, pid, start_time(pid) or 0.0)
