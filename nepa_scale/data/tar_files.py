"""Tar archives: headers read without trusting them, shards written as webdataset writes them. Standard library only."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

from nepa_scale.utils.errors import DataError

_LONGEST_HEADER = 2**20  # bytes that tarfile may ask for at once: extended headers state their own size
Members = Mapping[str, bytes | str]  # "__key__", a text, and the content of every extension
_OWNER = "bigdata"  # as webdataset has it


class _Window(io.RawIOBase):
    """Part of a file, as a file that refuses senseless reads."""

    def __init__(self, file: IO[bytes], start: int, size: int, name: str) -> None:
        self._file, self._start, self._size, self._name = file, start, size, name
        self._at = 0

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset < 0:
            raise DataError(f"{self._name} is not a complete tar file: a header points outside it")
        self._at = offset
        return offset

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= _LONGEST_HEADER:
            raise DataError(f"{self._name} is not a complete tar file: a header of {count} bytes")
        self._file.seek(self._start + self._at)
        content = self._file.read(min(count, max(self._size - self._at, 0)))
        self._at += len(content)
        return content


def walk(file: IO[bytes], name: str, *, start: int = 0, size: int | None = None) -> Iterator[tarfile.TarInfo]:
    """Yield every member of the archive in ``file``, or in its ``size`` bytes from ``start`` on.

    ``offset_data`` counts from ``start``. Every member's bytes are inside the archive; what kind of member it is, and
    its name, are for the caller to judge. Raises ``DataError``, which begins with ``name``, for what is not a complete
    tar file.
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
                    raise DataError(f"{name} is not a complete tar file: a member of {member.size} bytes")
                end = member.offset_data + (member.size if member.isreg() else 0)
                if end > size:
                    raise DataError(f"{name} is cut off inside {member.name!r:.200}")
                yield member
            _check_end(window, archive.offset, name)
    except (tarfile.TarError, ValueError, OverflowError, UnicodeError) as error:
        raise DataError(f"{name} is not a complete tar file: {error!s:.200}") from None


def _check_end(window: _Window, offset: int, name: str) -> None:
    """Refuse an archive whose members are not followed by a full block of zeros.

    tarfile takes a damaged header, and fewer zeros, for the end and says nothing. By POSIX the end is two such blocks.
    """
    window.seek(offset)
    if window.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise DataError(f"{name} is damaged or cut off at byte {offset:,}: neither a file header nor the end")


def is_plain(member: tarfile.TarInfo) -> bool:
    """Whether a member is an ordinary file whose bytes lie in one piece."""
    return member.isreg() and not member.issparse()


def write_tar(path: Path, samples: Iterable[Members]) -> str:
    """Write ``samples`` to ``path`` and to the disk below it; return the SHA-256 of the file.

    Nothing in it depends on the time, the user or the machine.
    """
    digest = hashlib.sha256()
    size = 0
    with path.open("wb") as file:
        for part in _parts(samples):
            digest.update(part)
            size += file.write(part)
        end = bytes(-(size + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE + 2 * tarfile.BLOCKSIZE)
        digest.update(end)
        file.write(end)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _parts(samples: Iterable[Members]) -> Iterator[bytes]:
    for sample in samples:
        key = _encoded(sample["__key__"]).decode()
        for extension in sorted(set(sample) - {"__key__"}):
            content = _encoded(sample[extension])
            yield _header(f"{key}.{extension}", len(content))
            yield content
            yield bytes(-len(content) % tarfile.BLOCKSIZE)


def _encoded(content: bytes | str) -> bytes:
    return content.encode() if isinstance(content, str) else content


def _header(name: str, size: int) -> bytes:
    if not name.isascii() or len(name) > tarfile.LENGTH_NAME:
        return _full_header(name, size)
    header = bytearray(_TEMPLATE)  # ten times as fast, which matters where images are small
    header[: len(name)] = name.encode()
    header[124:135] = b"%011o" % size
    header[148:154] = b"%06o" % (_TEMPLATE_SUM + sum(header[:136]))
    return bytes(header)


def _full_header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o444, 0
    member.uname = member.gname = _OWNER
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


_TEMPLATE = _full_header("", 0)
_TEMPLATE_SUM = sum(_TEMPLATE[136:148]) + 8 * ord(" ") + sum(_TEMPLATE[156:])  # a checksum counts itself as spaces
