"""Writing the index of a data set anew: what to do when a shard was changed on purpose."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from nepa_scale.data.index import INDEX_FOLDER, writable_folder, write_index
from nepa_scale.data.layout import Layout, dataset_info, find_layout
from nepa_scale.data.reporting import Report
from nepa_scale.errors import DataError


def index_again(root: Path, name: str, report: Report) -> str:
    """Replace ``root/name/_index``; return the lines that say so, and what is not read.

    Raises ``DataError`` with every fault of the shards, or when the folder cannot be written.
    """
    info = dataset_info(root, name)
    folder = root / name
    if find_layout(folder) is not Layout.SHARDS:
        raise DataError(f"'{folder}' is read as a folder of images and needs no index")
    with suppress(OSError):  # on a disk that is only read the index is in the cache
        (folder / INDEX_FOLDER).mkdir(exist_ok=True)
    target = writable_folder(folder)
    unread = write_index(folder, info, target, report=report)
    return f"{target}: written" + (f"\nnot read: {unread}" if any(unread) else "")
