"""Where each sample lies inside a tar shard, so that any sample can be read without reading those before it.

A shard is scanned once (headers only) and the result kept in a cache folder. Members are grouped as
webdataset does: everything before the first dot of the file name is the key, the rest is the extension. Names
are never used as paths, and nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from nepa_scale.errors import DataError
from nepa_scale.files import write_atomically

IMAGE_EXTENSIONS = frozenset({"jpg", "jpeg", "png"})
MASK_EXTENSION = "seg.png"
LABEL_EXTENSION = "cls"
NO_LABEL = -1  # absent, or not a whole number >= 0

_SPAN = [("image_offset", "<i8"), ("image_size", "<i8"), ("mask_offset", "<i8"), ("mask_size", "<i8")]
SAMPLE_TYPE = np.dtype([*_SPAN, ("label", "<i8")])
_CACHE_VERSION = 1


@dataclass(frozen=True)
class ShardIndex:
    """The samples of a shard: ``keys`` [N] in UTF-8, ``samples`` [N] of ``SAMPLE_TYPE`` (size 0: none)."""

    keys: NDArray[np.bytes_]
    samples: NDArray[np.void]


def shard_index(path: Path) -> ShardIndex:
    """Return the index of a shard, from the cache when the file has not changed since it was made.

    Raises ``DataError`` naming the shard when it is damaged or holds a key twice.
    """
    cached = _cache_file(path)
    with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        arrays = np.load(io.BytesIO(cached.read_bytes()))  # refuses pickles
        return ShardIndex(arrays["keys"], arrays["samples"])
    index = _scan(path)
    buffer = io.BytesIO()
    np.savez(buffer, keys=index.keys, samples=index.samples)
    with suppress(OSError):  # a cache that cannot be written costs time, nothing else
        write_atomically(cached, buffer.getvalue())
    return index


def _cache_file(path: Path) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    stat = path.stat()
    identity = f"{_CACHE_VERSION}\n{path.resolve()}\n{stat.st_size}\n{stat.st_mtime_ns}"
    return Path(base) / "nepa_scale" / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.npz"


def _scan(path: Path) -> ShardIndex:
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    labels: dict[str, int] = {}
    with path.open("rb") as file:
        for key, extension, member in _members(path, file):
            members = samples.setdefault(key, {})
            role = "image" if extension in IMAGE_EXTENSIONS else extension
            if role in members:
                raise DataError(f"shard '{path}' holds the {role} of '{key}' twice")
            members[role] = member
            if role == LABEL_EXTENSION:
                labels[key] = _label(os.pread(file.fileno(), member.size, member.offset_data))
    rows = []
    for key, members in samples.items():
        if "image" not in members:
            raise DataError(f"shard '{path}': sample '{key}' has no image (.jpg, .jpeg or .png)")
        image, mask = members["image"], members.get(MASK_EXTENSION)
        mask_span = (mask.offset_data, mask.size) if mask else (0, 0)
        rows.append((image.offset_data, image.size, *mask_span, labels.get(key, NO_LABEL)))
    keys = [key.encode("utf-8", "surrogateescape") for key in samples]
    return ShardIndex(np.array(keys, dtype=np.bytes_), np.array(rows, dtype=SAMPLE_TYPE))


def _members(path: Path, file: IO[bytes]) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Yield (key, extension, member) of the files that make up samples, passing over links and the like."""
    size = path.stat().st_size
    known = IMAGE_EXTENSIONS | {MASK_EXTENSION, LABEL_EXTENSION}
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                if member.offset_data + member.size > size:
                    raise DataError(f"shard '{path}' is cut off inside '{member.name}'")
                if member.isreg() and extension.lower() in known:
                    yield (f"{folder}/{stem}" if folder else stem), extension.lower(), member
    except tarfile.TarError as error:
        raise DataError(f"shard '{path}' is not a whole tar file: {error}") from None


def _label(text: bytes) -> int:
    stripped = text.strip()
    return int(stripped) if stripped.isdigit() and len(stripped) < 10 else NO_LABEL
