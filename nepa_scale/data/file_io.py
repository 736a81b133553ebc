"""Files of data sets: which are images, small texts, and reads that are retried where a disk is gone for a moment.

Standard library only.
"""

from __future__ import annotations

import codecs
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from nepa_scale.utils.errors import DataError

RETRY_SECONDS = (0.1, 1.0, 5.0)  # waits between attempts; then the storage counts as lost
OPEN_FILES = 64  # twice the window of shards that an epoch's order reads from at a time
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)  # of the formats that decode.py reads
_SYSTEM_FOLDERS = frozenset(
    {"__macosx", "@eadir", "@__thumb", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "__pycache__"}
    | {"lost+found", "system volume information"}
)  # of macOS, network disks, Windows, Python and file systems


def is_image(name: str) -> bool:
    """Whether a file is an image by its extension, in small or capital letters."""
    return name.lower().endswith(tuple(IMAGE_SUFFIXES))


def is_clutter(name: str) -> bool:
    """Whether a file or folder, by its own name without folders, is hidden or made by a system for itself."""
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS


def read_text(path: Path) -> str:
    """The content of a file as ``decode_text`` reads it. Raises ``DataError`` if it cannot be read."""
    try:
        return decode_text(path.read_bytes())
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror}") from None


def decode_text(content: bytes) -> str:
    """Text in UTF-8, or in UTF-16 with a byte-order mark, or else in Latin-1, which any bytes are; without the mark."""
    with suppress(UnicodeDecodeError):
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return content.decode("utf-16")
        return content.decode("utf-8-sig")
    return content.decode("latin-1")


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
