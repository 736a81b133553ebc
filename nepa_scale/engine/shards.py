"""safetensors files written tensor by tensor: a rank's shard of a checkpoint (read by element ranges), and exports.

The library's own writer wants all tensors in memory at once. The format (https://github.com/huggingface/safetensors):
eight bytes with the header's length, the header, a JSON object that names each tensor's type, shape and offsets, then
the values one after another without gaps.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from nepa_scale.distributed.process_group import first_text
from nepa_scale.distributed.world import World
from nepa_scale.optim.optimizer import whole_shape
from nepa_scale.utils.errors import RunError
from nepa_scale.utils.files import clear_leftovers, replacing

CHUNK_BYTES = 2**24
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGNMENT = 8


def announced(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor without values, for ``header``."""
    return torch.empty(tuple(shape), dtype=dtype, device="meta")


def header(entries: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes before the values, which then follow in the order of ``entries``, tensors of their types and shapes."""
    content: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name, entry in entries.items():
        end = start + entry.nbytes
        content[name] = {"dtype": _DTYPES[entry.dtype], "shape": list(entry.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def values_of(name: str, entry: Tensor, tensor: Tensor) -> memoryview:
    """The bytes of a tensor's values. Raises ``ValueError`` when it is not what was announced."""
    if (tensor.dtype, tensor.shape) != (entry.dtype, entry.shape):
        raise ValueError(f"{name}: {tensor.dtype} {[*tensor.shape]} instead of {entry.dtype} {[*entry.shape]}")
    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


@dataclass(frozen=True)
class Slice:
    """Elements ``start`` to ``start + numel`` of the flattened tensor ``key``."""

    key: str
    start: int
    numel: int
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class FileRecord:
    """The record of a file in a manifest: its size and the SHA-256 of its content."""

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
    entries = {item.key: announced((item.numel,), item.dtype) for item in slices}
    yield memoryview(header(entries, {"starts": json.dumps({item.key: item.start for item in slices})}))
    for (key, entry), value in zip(entries.items(), values, strict=True):
        data = values_of(key, entry, value)
        for begin in range(0, len(data), CHUNK_BYTES):
            yield data[begin : begin + CHUNK_BYTES]


def export_tensors(
    path: Path, tensors: Mapping[str, Tensor], gather: Callable[[nn.Parameter], Tensor], world: World
) -> None:
    """Write ``tensors`` of a state dict by name to a safetensors file, parameters in fp32; all ranks call this.

    Args:
        gather: gathers a parameter on every rank, in fp32; a collective.

    Raises:
        RunError: on every rank, when rank 0 cannot write the file.
    """
    gathered = (gather(t) if isinstance(t, nn.Parameter) else t.detach() for t in tensors.values())
    problem = None
    try:
        if world.is_main:
            clear_leftovers(path)
            entries = {name: _entry(tensor) for name, tensor in tensors.items()}
            with replacing(path) as file:
                file.write(header(entries))
                for (name, entry), tensor in zip(entries.items(), gathered, strict=True):
                    file.write(values_of(name, entry, tensor))
    except OSError as error:
        problem = f"{path}: cannot be written: {error.strerror}; make room, and the same command tries again"
    for _ in gathered:  # the other ranks take part, and so does rank 0 after an error
        pass
    if problem := first_text(problem):
        raise RunError(problem)


def _entry(tensor: Tensor) -> Tensor:
    return announced(whole_shape(tensor), torch.float32) if isinstance(tensor, nn.Parameter) else tensor
