"""The headers of a tar archive, also of one inside another, without reading or trusting what is in it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import IO

from nepa_scale.utils.errors import DataError

_LONGEST_HEADER = 2**20  # bytes that tarfile may ask for at once: extended headers state their own size


class _Window(io.RawIOBase):
    """Part of a file, as a file that refuses senseless reads."""

    def __init__(self, file: IO[bytes], start: int, size: int, name: str) -> None:
        self._file, self._start, self._size, self._name = file, start, size, name
        self._at = 0

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset < 0:
            raise DataError(f"'{self._name}' is not a whole tar file: a header points outside it")
        self._at = offset
        return offset

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= _LONGEST_HEADER:
            raise DataError(f"'{self._name}' is not a whole tar file: a header of {count} bytes")
        self._file.seek(self._start + self._at)
        content = self._file.read(min(count, max(self._size - self._at, 0)))
        self._at += len(content)
        return content


def walk(file: IO[bytes], name: str, *, start: int = 0, size: int | None = None) -> Iterator[tarfile.TarInfo]:
    """Yield every member of the archive in ``file``, or in its ``size`` bytes from ``start`` on.

    ``offset_data`` counts from ``start``. Every member's bytes are inside the archive; what kind of member it is, and
    its name, are for the caller to judge. Raises ``DataError`` with ``name`` for what is not a whole tar file.
    """
    if size is None:
        size = file.seek(0, io.SEEK_END) - start
    window = _Window(file, start, size, name)
    end = 0
    try:
        with tarfile.open(fileobj=window, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # a list of all members would grow with the archive
                if member.size < 0 or member.offset_data < end:  # would be read again, and again
                    raise DataError(f"'{name}' is not a whole tar file: a member of {member.size} bytes")
                end = member.offset_data + (member.size if member.isreg() else 0)
                if end > size:
                    raise DataError(f"'{name}' is cut off inside {member.name!r}")
                yield member
            _check_end(window, archive.offset, name)
    except (tarfile.TarError, ValueError, OverflowError, UnicodeError) as error:
        raise DataError(f"'{name}' is not a whole tar file: {error}") from None


def _check_end(window: _Window, offset: int, name: str) -> None:
    """A damaged header looks like the end to tarfile; the real end is a block of zeros."""
    window.seek(offset)
    block = window.read(tarfile.BLOCKSIZE)
    if block and block.count(0) != len(block):
        raise DataError(f"'{name}' is damaged: no header where the next member must start")
    if not block:
        raise DataError(f"'{name}' is cut off: its end is missing")


def is_plain(member: tarfile.TarInfo) -> bool:
    """Whether a member is an ordinary file whose bytes lie in one piece."""
    return member.isreg() and not member.issparse()
