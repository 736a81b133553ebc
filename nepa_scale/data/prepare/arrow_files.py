"""Files of Arrow, read row group by row group: parquet, and the streams that ``datasets`` leaves with ``save_to_disk``.

A row group of a stream is one of its record batches. pyarrow is imported where it is used, because it takes a while.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
