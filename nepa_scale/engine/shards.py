"""One rank's file of a checkpoint: safetensors with pieces of tensors, hashed while written, read by element ranges."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nepa_scale.engine.safetensors_stream import Entry, header, values_of

CHUNK_BYTES = 2**24


@dataclass(frozen=True)
class Slice:
    """Elements ``start`` to ``start + numel`` of the flattened tensor ``key``."""

    key: str
    start: int
    numel: int
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class FileRecord:
    """What a manifest says of a file: its size and the SHA-256 of its content."""

    size: int
    sha256: str


def write_shard(path: Path, slices: Sequence[Slice], values: Iterable[Tensor]) -> FileRecord:
    """Write ``values``, the flat tensors of ``slices`` in their order, and flush them to disk.

    The file is made here and not by safetensors' own function, which copies every tensor and would need to read the
    file again for its hash; it follows that format, and safetensors reads it.
    """
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as file:  # buffered: a bare write may end short on a disk that is nearly full
        for chunk in _chunks(slices, values):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return FileRecord(size, digest.hexdigest())


def record_of(path: Path) -> FileRecord:
    """Size and hash of a file as it lies on disk."""
    with path.open("rb") as file:
        return FileRecord(os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())


class ShardReader:
    """Any range of any tensor of a checkpoint, out of the files of all ranks; opens no more of them than it needs.

    Raises, in ``with`` and in ``read``: ``safetensors.SafetensorError`` or ``OSError`` for an unreadable file.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        """Take the files in the order in which they are to be looked through."""
        self._paths = list(paths)
        self._stack = ExitStack()
        self._opened = 0
        self._places: dict[str, list[tuple[int, int, Any]]] = {}

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, key: str, start: int, out: Tensor) -> bool:
        """Fill flat ``out`` with the elements from ``start`` on; False, and part of it filled, if some are nowhere."""
        covered = self._fill(key, start, out)
        while covered < out.numel() and self._opened < len(self._paths):
            self._open_next()
            covered = self._fill(key, start, out)
        return covered == out.numel()

    def _fill(self, key: str, start: int, out: Tensor) -> int:
        end, covered = start + out.numel(), 0
        for first, numel, content in self._places.get(key, ()):
            low, high = max(start, first), min(end, first + numel)
            if low < high:
                out[low - start : high - start].copy_(content.get_slice(key)[low - first : high - first])
                covered += high - low
        return covered

    def _open_next(self) -> None:
        path = self._paths[self._opened]
        content = self._stack.enter_context(safe_open(path, framework="pt"))
        try:
            starts: dict[str, int] = json.loads(content.metadata()["starts"])
        except (TypeError, KeyError, ValueError) as error:
            raise SafetensorError(f"no starts of its slices in its metadata: {error!r}") from error
        for key, start in starts.items():
            self._places.setdefault(key, []).append((start, content.get_slice(key).get_shape()[0], content))
        self._opened += 1


def _chunks(slices: Sequence[Slice], values: Iterable[Tensor]) -> Iterator[memoryview]:
    """The bytes of a safetensors file."""
    entries = {item.key: Entry(item.dtype, (item.numel,)) for item in slices}
    yield memoryview(header(entries, {"starts": json.dumps({item.key: item.start for item in slices})}))
    for (key, entry), value in zip(entries.items(), values, strict=True):
        data = values_of(key, entry, value)
        for begin in range(0, len(data), CHUNK_BYTES):
            yield data[begin : begin + CHUNK_BYTES]
