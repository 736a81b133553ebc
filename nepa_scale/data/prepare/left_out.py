"""What a source holds and is not read: counted by kind, each with an example."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from nepa_scale.data.unread import KindCounts

_SHOWN = 20  # kinds that are printed; _info.json has all
_LONGEST_SUFFIX = 12


class LeftOut(KindCounts):
    """Files of a source that are not read."""

    def add_unread(self, names: Iterable[str], read: Iterable[str]) -> None:
        """Count the files of a source that are not among those ``read``.

        A file in a folder from which nothing is read counts by the name of that folder, another by its extension.
        """
        read = set(read)
        used = {""}
        for folder in {name.rpartition("/")[0] for name in read}:
            used.update(_with_parents(folder))
        for name in names:
            if name not in read:
                outside = [folder for folder in _with_parents(name.rpartition("/")[0]) if folder not in used]
                self.count(in_folders(outside[-1].rpartition("/")[2]) if outside else _by_suffix(name), name)

    def as_json(self) -> dict[str, Any]:
        """By kind: count and example."""
        return {kind: {"count": count, "example": self._examples[kind]} for kind, count in self._counts.items()}

    def lines(self) -> list[str]:
        """A line for each kind, for people."""
        lines = [
            f"not read: {_one_line(kind)}: {count:,}, such as {self._examples[kind]!r:.200}"
            for kind, count in self._counts.items()
        ]
        more = [f"not read: {len(lines) - _SHOWN} more kinds of files"] if len(lines) > _SHOWN else []
        return lines[:_SHOWN] + more


def in_folders(name: str) -> str:
    """The kind of all files in folders of that name."""
    return f"files in '{name}' folders"


def _with_parents(folder: str) -> Iterator[str]:
    """A folder and those it lies in, but for the source itself."""
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]


def _by_suffix(name: str) -> str:
    suffix = PurePosixPath(name).suffix.lower()
    return f"{suffix} files" if 1 < len(suffix) <= _LONGEST_SUFFIX else "files without an extension"


def _one_line(kind: str) -> str:
    return kind if kind.isprintable() else repr(kind)
