"""One process at a time works on a data set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from nepa_scale.utils.errors import DataError


@contextmanager
def locked(path: Path, name: str) -> Iterator[None]:
    """Hold the lock file ``path`` while data set ``name`` is worked on; it is removed afterwards.

    Raises ``DataError`` if another process holds it.
    """
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise DataError(f"'{name}' is being prepared by another process in '{path.parent}'") from None
    try:
        if not path.exists():  # the other process ended between our opening the file and locking it
            raise DataError(f"'{name}' was just being prepared by another process in '{path.parent}': run this again")
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()
