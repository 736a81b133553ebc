"""Where each sample lies inside a tar shard, found from its headers alone.

Members are grouped as webdataset does: everything before the first dot of the file name is the key, the rest is the
extension: ``x.1.jpg`` is no image, but the ``1.jpg`` of ``x``. Names are never used as paths, only the extensions named
here are looked at, and nothing is unpickled. All other members are counted, and a sample that has none but such images
or classes is an error.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from nepa_scale.data.tar_files import walk
from nepa_scale.utils.errors import DataError, shortened

IMAGE_EXTENSIONS = frozenset({"jpg", "jpeg", "png"})
MASK_EXTENSION = "seg.png"
LABEL_EXTENSION = "cls"
_LIKE_A_SAMPLE = IMAGE_EXTENSIONS | {"webp", "gif", "bmp", "tif", "tiff", "jfif", "ppm", "pgm", LABEL_EXTENSION}
NO_LABEL = -1  # absent, or not a whole number >= 0
_LONGEST_LABEL = 64  # bytes of a .cls file that are looked at
LONGEST_KEY = 255  # bytes, as for a file name; keys are kept at the width of the longest

_SPAN = [("image_offset", "<i8"), ("image_size", "<i8"), ("mask_offset", "<i8"), ("mask_size", "<i8")]
SAMPLE_TYPE = np.dtype([*_SPAN, ("label", "<i8")])


class KindCounts:
    """How many names there are of each kind, and the first of each."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, str] = {}

    def __iter__(self) -> Iterator[str]:
        """The kinds."""
        return iter(self._counts)

    def count(self, kind: str, example: str, number: int = 1) -> None:
        """Add to a kind; the first name of each is its example."""
        self._counts[kind] = self._counts.get(kind, 0) + number
        self._examples.setdefault(kind, example)


class Unread(KindCounts):
    """Members of shards that are not read, by the last extension of their names."""

    def add(self, name: str) -> None:
        """Count a member."""
        file = name.rpartition("/")[2]
        self.count(f".{file.rpartition('.')[2].lower()}" if "." in file else "without extension", name)

    def merge(self, other: Unread) -> None:
        """Count those of another shard, too."""
        for kind in other:
            self.count(kind, other._examples[kind], other._counts[kind])

    def __str__(self) -> str:
        """One harmless line: "1,200 '.json' (such as 'n01.json'), 3 '.jpg' (such as 'x.1.jpg')"."""
        kinds = sorted(self._counts, key=lambda kind: -self._counts[kind])
        return shortened(
            f"{self._counts[kind]:,} {kind!a:.20} (such as {self._examples[kind]!a:.100})" for kind in kinds
        )


@dataclass(frozen=True)
class ShardIndex:
    """The samples of a shard: ``keys`` [N] in UTF-8, ``samples`` [N] of ``SAMPLE_TYPE`` (size 0: none).

    ``unread``: its other members; ``unlabelled``: what the first sample without a class has instead.
    """

    keys: NDArray[np.bytes_]
    samples: NDArray[np.void]
    unread: Unread = field(default_factory=Unread)
    unlabelled: str = ""


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
    others: dict[str, list[str]] = {}
    labels: dict[str, bytes] = {}
    unread = Unread()
    for key, extension, member in _members(path, file):
        role = role_of(extension) if member.isreg() else None
        if role is None:
            unread.add(member.name)
            if member.isreg() and suggests_sample(extension):
                others.setdefault(key, []).append(extension)
            continue
        members = samples.setdefault(key, {})
        if role in members:
            raise DataError(f"shard '{path}' holds the {role} of '{printable(key)}' twice")
        members[role] = member
        if role == LABEL_EXTENSION:
            labels[key] = os.pread(file.fileno(), min(member.size, _LONGEST_LABEL), member.offset_data)
    imageless = [key for key in samples | others if "image" not in samples.get(key, {})]
    if imageless:
        key = imageless[0]
        lacks = no_image([*samples.get(key, {}), *others.get(key, [])])
        count = f"{len(imageless)} of {len(samples | others)} samples"
        raise DataError(f"shard '{path}': sample '{printable(key)}' has {lacks} ({count})")
    classes = {key: parse_label(text) for key, text in labels.items()}
    rows = []
    for key, members in samples.items():
        image, mask = members["image"], members.get(MASK_EXTENSION)
        mask_span = (mask.offset_data, mask.size) if mask else (0, 0)
        rows.append((image.offset_data, image.size, *mask_span, classes.get(key, NO_LABEL)))
    bad = next((key for key in samples if classes.get(key, NO_LABEL) == NO_LABEL), None)
    has = f".cls {labels[bad][:20]!r}" if bad in labels else "no .cls"
    keys = [key.encode("utf-8", "surrogateescape") for key in samples]
    return ShardIndex(
        np.array(keys, dtype=np.bytes_),
        np.array(rows, dtype=SAMPLE_TYPE),
        unread,
        "" if bad is None else f"sample '{printable(bad)}' has {has}",
    )


def _members(path: Path, file: IO[bytes]) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Yield (key, extension, member) of everything but folders."""
    if not path.stat().st_size:
        raise DataError(f"shard '{path}' is empty (0 bytes)")
    for member in walk(file, f"shard '{path}'"):
        key, extension = split_name(member.name)
        if member.isdir():
            continue
        if role_of(extension) and len(key.encode("utf-8", "surrogateescape")) > LONGEST_KEY:
            raise DataError(
                f"shard '{path}' has a sample name of more than {LONGEST_KEY} bytes: '{printable(key[:40])}…'"
            )
        yield key, extension, member


def parse_label(text: bytes) -> int:
    """The class that a ``.cls`` file holds, or ``NO_LABEL``."""
    stripped = text.strip()
    return int(stripped) if stripped.isdigit() and len(stripped) < 10 else NO_LABEL


def split_name(name: str) -> tuple[str, str]:
    """The key of the sample that a member belongs to, and its extension in small letters; none of a hidden file."""
    folder, _, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    if not stem:
        return name, ""
    return (f"{folder}/{stem}" if folder else stem), extension.lower()


def role_of(extension: str) -> str | None:
    """A member's role in its sample: "image", ``MASK_EXTENSION`` or ``LABEL_EXTENSION``; None if it is not read."""
    if extension in IMAGE_EXTENSIONS:
        return "image"
    return extension if extension in {MASK_EXTENSION, LABEL_EXTENSION} else None


def suggests_sample(extension: str) -> bool:
    """Whether a member that is not read looks like an image, a mask or a class: its sample must have an image."""
    return extension.rpartition(".")[2] in _LIKE_A_SAMPLE


def no_image(extensions: Collection[str]) -> str:
    """Text for a sample without an image: its other extensions, and a hint where an extension has a dot."""
    hint = "; as in webdataset, an extension begins at the first dot of a file's name"
    dotted = any("." in extension and extension != MASK_EXTENSION for extension in extensions)
    others = shortened(f".{printable(extension)}" for extension in sorted(extensions))
    return f"no image (.jpg, .jpeg or .png), only {others}{hint if dotted else ''}"


def printable(name: str) -> str:
    """A name from an archive as one harmless line, for messages."""
    return name.encode("unicode_escape", "backslashreplace").decode("ascii")[:200]
