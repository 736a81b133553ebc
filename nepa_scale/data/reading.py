"""Reading bytes from disks that may be slow or gone for a moment, as network file systems are."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nepa_scale.utils.errors import DataError

RETRY_SECONDS = (0.1, 1.0, 5.0)  # waits between attempts; then the storage counts as lost
OPEN_FILES = 64  # twice the window of shards that an epoch's order reads from at a time


class RetryingReader:
    """Parts of files, by offset. A few files stay open; can be pickled and used in any number of processes."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, int] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"_open": OrderedDict()}

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def read(self, path: Path, offset: int, size: int) -> bytes:
        """Return ``size`` bytes at ``offset``. Raises ``DataError`` if they cannot be had after some attempts."""
        content = _with_retries(lambda: os.pread(self._descriptor(path), size, offset), path, self._forget)
        if len(content) != size:
            raise DataError(f"'{path}' became shorter while in use")
        return content

    def _descriptor(self, path: Path) -> int:
        if path not in self._open:
            self._open[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if len(self._open) > OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(path)
        return self._open[path]

    def _forget(self, path: Path) -> None:
        if path in self._open:
            os.close(self._open.pop(path))


def read_with_retries(path: Path) -> bytes:
    """Return a file's content. Raises ``DataError`` if it cannot be had after some attempts."""
    return _with_retries(path.read_bytes, path, lambda _: None)


def _with_retries(read: Callable[[], bytes], path: Path, forget: Callable[[Path], None]) -> bytes:
    """Try to read until it works; ``forget`` drops what is open, for a stale handle stays stale."""
    for wait in RETRY_SECONDS:
        try:
            return read()
        except OSError:
            forget(path)
            time.sleep(wait)
    try:
        return read()
    except OSError as error:
        forget(path)
        attempts, seconds = len(RETRY_SECONDS) + 1, sum(RETRY_SECONDS)
        reason = f"{error.strerror}, {attempts} times in {seconds:g} s"
        raise DataError(f"'{path}' cannot be read: {reason}") from None
