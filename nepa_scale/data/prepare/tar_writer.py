"""One shard as a file: the bytes that webdataset's TarWriter would write, without importing torch."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

Members = Mapping[str, bytes | str]  # "__key__", a text, and the content of every extension

_OWNER = "bigdata"  # as webdataset has it


class _Hashing:
    """A file that is written from start to end and knows the digest of its content."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        return self._file.write(content)


def write_tar(path: Path, samples: Iterable[Members]) -> str:
    """Write ``samples`` to ``path`` and to the disk below it; return the SHA-256 of the file.

    Nothing in it depends on the time, the user or the machine.
    """
    with path.open("wb") as file:
        hashing = _Hashing(file)
        with tarfile.open(fileobj=hashing, mode="w|") as archive:  # type: ignore[call-overload]
            for sample in samples:
                for extension in sorted(set(sample) - {"__key__"}):
                    data = _encoded(sample[extension])
                    name = f"{_encoded(sample['__key__']).decode()}.{extension}"
                    archive.addfile(_header(name, len(data)), io.BytesIO(data))
                    archive.members.clear()  # tarfile keeps a list of all it wrote
        file.flush()
        os.fsync(file.fileno())
    return hashing.digest.hexdigest()


def _encoded(content: bytes | str) -> bytes:
    return content.encode() if isinstance(content, str) else content


def _header(name: str, size: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size, header.mode, header.mtime = size, 0o444, 0
    header.uname = header.gname = _OWNER
    return header
