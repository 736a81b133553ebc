"""The index of a data set: where every sample of a split lies, in one file for all its shards.

``prepare`` leaves it in the data set's ``_index`` folder. A data set that came from elsewhere is indexed on first use
and its index kept in the user's cache, because nothing is written into folders that are only read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nepa_scale.data.info import DatasetInfo

INDEX_FOLDER = "_index"

Report = Callable[[str, int, int], None]


def write_index(folder: Path, info: DatasetInfo, target: Path, *, report: Report | None = None) -> None:
    """Scan every shard of ``folder`` and write ``target/<split>.npz`` for each split.

    ``report(what, done, total)`` counts the shards. Raises ``DataError`` with every fault of every shard, a line each:
    missing, cut off, another number of samples than ``info`` says, a key twice.
    """
    raise NotImplementedError
