"""Where the bytes of every sample lie in a source, and reading them.

Archives are read in place: no member is extracted, no member name is used as a path. Files of Arrow (parquet, and the
streams that ``datasets`` leaves with ``save_to_disk``) are read row group by row group; one of a stream is one of its
record batches. pyarrow is imported where it is used, because it takes a while.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, NamedTuple, Self

from nepa_scale.data.decode import BadImageError
from nepa_scale.data.shard_index import KindCounts
from nepa_scale.utils.errors import DataError

ARROW = ".arrow"


@dataclass(frozen=True)
class RowGroups:
    """An open file: its Arrow ``schema`` and the number of rows in each of its row groups."""

    schema: Any
    lengths: list[int]
    file: Any

    def column(self, group: int, name: str) -> Any:
        """A column of one row group, all of it."""
        if isinstance(self.file, list):
            return self.file[group].column(name)
        return self.file.read_row_group(group, columns=[name], use_threads=False).column(name)


@contextmanager
def row_groups(path: Path) -> Iterator[RowGroups]:
    """Open a file. Raises ``pyarrow.ArrowException`` or ``OSError`` where it is none of the two kinds."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix == ARROW:
        with pa.memory_map(str(path)) as source:  # of which the batches are views: nothing is read before it is used
            batches = list(pa.ipc.open_stream(source))
            schema = batches[0].schema if batches else pa.schema([])
            yield RowGroups(schema, [batch.num_rows for batch in batches], batches)
    else:
        with pq.ParquetFile(path) as file:
            lengths = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            yield RowGroups(file.schema_arrow, lengths, file)


def slices(path: str, column: str, group: int, rows: int) -> Generator[Any]:
    """A column of a row group, so many ``rows`` at a time. Raises as ``row_groups`` does."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.endswith(ARROW):
        with pa.memory_map(path) as source:
            batch = next(batch for index, batch in enumerate(pa.ipc.open_stream(source)) if index == group)
            yield from (batch.column(column).slice(start, rows) for start in range(0, batch.num_rows, rows))
    else:
        # a buffer makes Arrow read pages as they are needed instead of whole row groups, which can have gigabytes
        with pq.ParquetFile(path, buffer_size=2**20, pre_buffer=False) as file:
            batches = file.iter_batches(rows, row_groups=[group], columns=[column], use_threads=False)
            yield from (batch.column(0) for batch in batches)


_ROWS_AT_ONCE = 32
_SHOWN = 20  # kinds that are printed; _info.json has all
_LONGEST_SUFFIX = 12


class Span(NamedTuple):
    """Bytes of a file: a whole image file, or a member of a tar archive."""

    path: str
    offset: int
    size: int
    name: str  # for messages, relative to the source


class ZipEntry(NamedTuple):
    """A member of a zip archive."""

    path: str
    name: str
    size: int


class ParquetColumn(NamedTuple):
    """A parquet file, or a stream of Arrow, and its column of encoded images by its path in the schema."""

    path: str
    name: str


class ParquetRow(NamedTuple):
    """The image of one row of a parquet file."""

    column: ParquetColumn
    group: int
    row: int  # within its row group
    file_size: int
    name: str

    @property
    def path(self) -> str:
        """The file."""
        return self.column.path


Reference = Span | ZipEntry | ParquetRow


class LeftOut(KindCounts):
    """The files of a source that are not read, counted by kind, with an example of each."""

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


class SourceError(DataError):
    """A file of the source cannot be read. It concerns more than one image, so it is never skipped."""


class Reader:
    """Reads references, keeping the last file of each kind open. For one process, from one thread.

    ``read`` raises ``BadImageError`` for a member that is damaged, ``SourceError`` for a file that cannot be read.
    """

    def __init__(self) -> None:
        self._path = ""
        self._descriptor = -1
        self._zip: zipfile.ZipFile | None = None
        self._rows: _Rows | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        if self._zip:
            self._zip.close()
        if self._rows:
            self._rows.close()

    def read(self, reference: Reference) -> bytes:
        """The encoded bytes."""
        try:
            if isinstance(reference, Span):
                return self._read_span(reference)
            if isinstance(reference, ZipEntry):
                return self._read_zip(reference)
            return self._read_row(reference)
        except OSError as error:
            raise SourceError(f"'{reference.path}' cannot be read: {error.strerror or error}") from None

    def _read_span(self, span: Span) -> bytes:
        if self._path != span.path:
            if self._descriptor >= 0:
                os.close(self._descriptor)
            self._path, self._descriptor = "", -1
            self._descriptor = os.open(span.path, os.O_RDONLY)
            self._path = span.path
        content = os.pread(self._descriptor, span.size, span.offset)
        if len(content) != span.size:
            raise SourceError(f"'{span.path}' became shorter while it was read")
        return content

    def _read_zip(self, entry: ZipEntry) -> bytes:
        try:
            if self._zip is None or self._zip.filename != entry.path:
                self._zip = zipfile.ZipFile(entry.path)
            with self._zip.open(entry.name) as member:
                return member.read(entry.size)
        except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError, RuntimeError) as error:
            raise BadImageError(f"the member of the zip file is damaged: {error}") from None

    def _read_row(self, row: ParquetRow) -> bytes:
        if self._rows is None or not self._rows.can_reach(row):
            if self._rows:
                self._rows.close()
            self._rows = _Rows(row)
        content = self._rows.advance_to(row.row)
        if not content:
            raise BadImageError("the row has no image bytes")
        return content


class _Rows:
    """The images of one row group from the first on, a few at a time."""

    def __init__(self, row: ParquetRow) -> None:
        self._source = (row.column, row.group)
        self._slices = slices(row.path, row.column.name, row.group, _ROWS_AT_ONCE)
        self._first = 0
        self._images: list[bytes | None] = []

    def can_reach(self, row: ParquetRow) -> bool:
        return self._source == (row.column, row.group) and row.row >= self._first

    def advance_to(self, row: int) -> bytes | None:
        while row >= self._first + len(self._images):
            self._first += len(self._images)
            self._images = self._next_images()
        return self._images[row - self._first]

    def _next_images(self) -> list[bytes | None]:
        import pyarrow as pa

        try:
            images = next(self._slices).to_pylist()
        except (pa.ArrowException, StopIteration, RuntimeError) as error:  # the last: a row group that is gone
            column, group = self._source
            raise SourceError(f"'{column.path}' is damaged in row group {group}: {error}") from None
        return [image["bytes"] if isinstance(image, dict) else image for image in images]

    def close(self) -> None:
        self._slices.close()


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
