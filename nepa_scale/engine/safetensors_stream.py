"""Write a safetensors file tensor by tensor: the library's own writer wants all of them in memory at once.

The format (https://github.com/huggingface/safetensors): eight bytes with the header's length, the header, a JSON
object that names each tensor's type, shape and place, then the values one after another without gaps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from nepa_scale.utils.files import replacing

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


@dataclass(frozen=True)
class Entry:
    """What a file says of a tensor before it holds it."""

    dtype: torch.dtype
    shape: Sequence[int]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's values."""
        return math.prod(self.shape) * self.dtype.itemsize


class SafetensorsWriter:
    """A file to be, at a temporary name until all of ``entries`` are written; an error leaves nothing of it behind."""

    def __init__(self, path: Path, entries: Mapping[str, Entry], metadata: Mapping[str, str] | None = None) -> None:
        self._path, self._entries, self._metadata = path, entries, metadata
        self._pending = list(entries.items())
        self._replacing = ExitStack()

    def __enter__(self) -> SafetensorsWriter:
        self._file = self._replacing.enter_context(replacing(self._path))
        self._file.write(header(self._entries, self._metadata))
        return self

    def write(self, tensor: Tensor) -> None:
        """Write the next of the entries. Raises ``ValueError`` when the tensor is not what was announced."""
        name, entry = self._pending.pop(0)
        self._file.write(values_of(name, entry, tensor))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None and self._pending:
            missing = ValueError(f"{self._path}: {len(self._pending)} tensors were announced and not written")
            self._replacing.__exit__(ValueError, missing, None)
            raise missing
        self._replacing.__exit__(kind, error, traceback)


def header(entries: Mapping[str, Entry], metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes before the values, which then follow in the order of ``entries``."""
    content: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name, entry in entries.items():
        end = start + entry.nbytes
        content[name] = {"dtype": _DTYPES[entry.dtype], "shape": list(entry.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def values_of(name: str, entry: Entry, tensor: Tensor) -> memoryview:
    """The bytes of a tensor's values. Raises ``ValueError`` when it is not what was announced."""
    if (tensor.dtype, tuple(tensor.shape)) != (entry.dtype, tuple(entry.shape)):
        raise ValueError(f"{name}: {tensor.dtype} {list(tensor.shape)} instead of {entry.dtype} {entry.shape}")
    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
