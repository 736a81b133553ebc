"""What is found and not read: counted by kind, each with an example."""

from __future__ import annotations

from collections.abc import Iterator

from nepa_scale.utils.errors import shortened


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
