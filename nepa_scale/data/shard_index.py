"""Shards: tar archives written as webdataset writes them, and where each sample lies in one, by its headers alone.

Headers are read without trusting them.
Members are grouped as webdataset does: everything before the first dot of the file name is the key, the rest is the
extension: ``x.1.jpg`` is no image, but the ``1.jpg`` of ``x``. Names are never used as paths, only the extensions named
here are looked at, and nothing is unpickled. All other members are counted, and a sample that has none but such images
or classes is an error.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from nepa_scale.utils.errors import DataError, shortened

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
