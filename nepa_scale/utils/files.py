"""Writing files that other processes read: always complete, never half-written."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

Content = TypeVar("Content")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, at a temporary name beside ``path``: flushed to disk and renamed into place on leaving, or
    removed after an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def clear_leftovers(path: Path) -> None:
    """Remove what killed processes left of ``path`` half-written; nobody else may be writing it now."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        leftover.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write ``content`` to a temporary name beside ``path``, flush it to disk, then rename it into place."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write a new folder of files under a temporary name, then rename it; an empty ``folder`` is replaced."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        for name, content in contents.items():
            write_atomically(temporary / name, content)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def make_durable(folder: Path) -> None:
    """Flush to disk which names a folder holds: a rename in it then outlives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically."""
    write_atomically(path, to_json(content))


def to_json(content: Any) -> str:
    """The text of a JSON file, indented for readers."""
    return json.dumps(content, indent=2) + "\n"


def read_json(path: Path) -> Any:
    """Read a JSON file in UTF-8 or another encoding of Unicode, whatever the locale.

    Raises ``FileNotFoundError``, ``UnicodeDecodeError`` or ``json.JSONDecodeError``.
    """
    return json.loads(path.read_bytes())


def until_changed(read: Callable[[Path], Content]) -> Callable[[Path], Content]:
    """``read``, which a process then calls once for each file, and again only when the file has changed on disk.

    What it returns is shared: callers leave it as it is.
    """
    known: dict[Path, tuple[tuple[int, ...], Content]] = {}

    @functools.wraps(read)
    def reading(path: Path) -> Content:
        try:
            status = path.stat()
        except OSError:
            return read(path)  # which says what is wrong
        version = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if path not in known or known[path][0] != version:
            content = read(path)
            if content is None:  # not readable, perhaps only now
                return content
            known[path] = version, content
        return known[path][1]

    return reading


def expand_home(text: str) -> str:
    """A typed path with a leading ``~`` or ``~name`` as the home folder: shells leave it alone behind a ``=``."""
    return os.path.expanduser(text)  # noqa: PTH111  pathlib raises where there is no such user


def typed_path(text: str) -> Path:
    """The path that a user typed, with ``~`` expanded."""
    return Path(expand_home(text))


def file_in_the_way(folder: Path) -> Path | None:
    """The file that keeps ``folder`` from being made: in its place or that of a parent; None if there is none."""
    return next((path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()), None)
