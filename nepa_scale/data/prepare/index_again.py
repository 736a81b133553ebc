"""Writing the index of a data set anew, when a shard was changed on purpose, and measuring its images."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from nepa_scale.data.index import INDEX_FOLDER, writable_folder, write_index
from nepa_scale.data.info import INFO_NAME, DatasetInfo
from nepa_scale.data.layout import Layout, dataset_info, find_layout
from nepa_scale.data.prepare.checksums import read_sums, sum_of, write_sums
from nepa_scale.data.prepare.pixel_sums import measure
from nepa_scale.data.reporting import Report
from nepa_scale.utils.errors import DataError
from nepa_scale.utils.files import read_json, write_json


def index_again(root: Path, name: str, report: Report, *, measured: bool = False, workers: int | None = None) -> str:
    """Replace ``root/name/_index``; return the lines that say so, and what is not read.

    ``measured``: all training images are read as well, and their mean and deviation put into ``_info.json``.

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
    lines = [f"{target}: written", *([f"not read: {unread}"] if any(unread) else [])]
    return "\n".join([*lines, *([_measure(folder, info, workers, report)] if measured else [])])


def _measure(folder: Path, info: DatasetInfo, workers: int | None, report: Report) -> str:
    """Put mean and deviation of the training images into ``_info.json``; return the line that says so."""
    found = measure([folder / filename for filename in info.splits["train"].filenames], workers, report)
    statistics, path = found.sums.as_json(), folder / INFO_NAME
    if not statistics:
        raise DataError(f"'{folder}': none of the training images can be decoded")
    sums = read_sums(folder)
    try:
        write_json(path, {**read_json(path), **statistics})
        if sums is not None and INFO_NAME in sums:
            write_sums(folder, {**sums, INFO_NAME: sum_of(path)})
    except OSError as error:
        raise DataError(f"'{path}' cannot be written: {error.strerror}") from None
    named = (f"{key} {' '.join(f'{value:.4f}' for value in values)}" for key, values in statistics.items())
    bad = f" ({found.bad} that cannot be decoded left out)" if found.bad else ""
    return f"{path}: {', '.join(named)} of the training images{bad}"
