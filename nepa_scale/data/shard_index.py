"""Where each sample lies inside a tar shard, found from its headers alone.

Members are grouped as webdataset does: everything before the first dot of the file name is the key, the rest is the
extension. Names are never used as paths, only the extensions named here are looked at, and nothing is unpickled.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from nepa_scale.errors import DataError

IMAGE_EXTENSIONS = frozenset({"jpg", "jpeg", "png"})
MASK_EXTENSION = "seg.png"
LABEL_EXTENSION = "cls"
NO_LABEL = -1  # absent, or not a whole number >= 0
LONGEST_KEY = 255  # bytes, as for a file name; keys are kept at the width of the longest

_SPAN = [("image_offset", "<i8"), ("image_size", "<i8"), ("mask_offset", "<i8"), ("mask_size", "<i8")]
SAMPLE_TYPE = np.dtype([*_SPAN, ("label", "<i8")])


@dataclass(frozen=True)
class ShardIndex:
    """The samples of a shard: ``keys`` [N] in UTF-8, ``samples`` [N] of ``SAMPLE_TYPE`` (size 0: none)."""

    keys: NDArray[np.bytes_]
    samples: NDArray[np.void]


def scan(path: Path) -> ShardIndex:
    """Read the headers of a shard. Raises ``DataError`` naming it when it is missing, damaged or holds a key twice."""
    try:
        with path.open("rb") as file:
            return _collect(path, file)
    except FileNotFoundError:
        raise DataError(f"shard '{path}' is missing") from None
    except OSError as error:
        raise DataError(f"shard '{path}' cannot be read: {error.strerror}") from None


def _collect(path: Path, file: IO[bytes]) -> ShardIndex:
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    labels: dict[str, int] = {}
    for key, extension, member in _members(path, file):
        members = samples.setdefault(key, {})
        role = "image" if extension in IMAGE_EXTENSIONS else extension
        if role in members:
            raise DataError(f"shard '{path}' holds the {role} of '{printable(key)}' twice")
        members[role] = member
        if role == LABEL_EXTENSION:
            labels[key] = parse_label(os.pread(file.fileno(), member.size, member.offset_data))
    rows = []
    for key, members in samples.items():
        if "image" not in members:
            raise DataError(f"shard '{path}': sample '{printable(key)}' has no image (.jpg, .jpeg or .png)")
        image, mask = members["image"], members.get(MASK_EXTENSION)
        mask_span = (mask.offset_data, mask.size) if mask else (0, 0)
        rows.append((image.offset_data, image.size, *mask_span, labels.get(key, NO_LABEL)))
    keys = [key.encode("utf-8", "surrogateescape") for key in samples]
    return ShardIndex(np.array(keys, dtype=np.bytes_), np.array(rows, dtype=SAMPLE_TYPE))


def _members(path: Path, file: IO[bytes]) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Yield (key, extension, member) of the files that make up samples, passing over links and the like."""
    size = path.stat().st_size
    if not size:
        raise DataError(f"shard '{path}' is empty (0 bytes)")
    known = IMAGE_EXTENSIONS | {MASK_EXTENSION, LABEL_EXTENSION}
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                key, extension = split_name(member.name)
                if member.size < 0 or member.offset_data + member.size > size:
                    raise DataError(f"shard '{path}' is cut off inside '{printable(member.name)}'")
                if not (member.isreg() and extension in known):
                    continue
                if len(key.encode("utf-8", "surrogateescape")) > LONGEST_KEY:
                    raise DataError(
                        f"shard '{path}' has a sample name of more than {LONGEST_KEY} bytes: '{printable(key[:40])}…'"
                    )
                yield key, extension, member
            _check_end(path, file, archive.offset)
    except (tarfile.TarError, ValueError, OverflowError) as error:  # senseless numbers in headers among them
        raise DataError(f"shard '{path}' is not a whole tar file: {printable(str(error))}") from None


def _check_end(path: Path, file: IO[bytes], offset: int) -> None:
    """Refuse a tar whose members do not end at zeros: ``tarfile`` takes a damaged header for the end, silently."""
    if os.pread(file.fileno(), tarfile.BLOCKSIZE, offset) != bytes(tarfile.BLOCKSIZE):
        raise DataError(f"shard '{path}' is damaged or cut off at byte {offset:,}: neither a file header nor the end")


def parse_label(text: bytes) -> int:
    """The class that a ``.cls`` file holds, or ``NO_LABEL``."""
    stripped = text.strip()
    return int(stripped) if stripped.isdigit() and len(stripped) < 10 else NO_LABEL


def split_name(name: str) -> tuple[str, str]:
    """The key of the sample that a member belongs to, and its extension in small letters."""
    folder, _, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return (f"{folder}/{stem}" if folder else stem), extension.lower()


def printable(name: str) -> str:
    """A name from an archive as one harmless line, for messages."""
    return name.encode("unicode_escape", "backslashreplace").decode("ascii")[:200]
