"""The index of a data set: where every sample of a split lies, in one file for all its shards.

``prepare`` leaves it in the data set's ``_index`` folder. A data set that came from elsewhere is indexed on first use
and its index kept in the user's cache, because nothing is written into folders that are only read.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from nepa_scale.data.file_io import prepare_command
from nepa_scale.data.info import DatasetInfo, SplitInfo
from nepa_scale.data.shard_index import SAMPLE_TYPE, ShardIndex, Unread, printable, scan
from nepa_scale.distributed.processes import cores, start_worker
from nepa_scale.utils.errors import DataError
from nepa_scale.utils.files import until_changed, write_atomically
from nepa_scale.utils.progress import Report, logger

INDEX_FOLDER = "_index"

_VERSION = 1
_FEW_SHARDS = 16  # fewer are scanned sooner than helpers have started


@dataclass(frozen=True)
class SplitIndex:
    """The samples of a split in the order of its shards, and what the shards were like when they were scanned.

    ``keys`` [N] in UTF-8, ``samples`` [N] of ``SAMPLE_TYPE``; for each of the S shards its length, size in bytes and
    time of modification in nanoseconds, [S] each.
    """

    keys: NDArray[np.bytes_]
    samples: NDArray[np.void]
    lengths: NDArray[np.int64]
    sizes: NDArray[np.int64]
    mtimes: NDArray[np.int64]


def write_index(folder: Path, info: DatasetInfo, target: Path, *, report: Report | None = None) -> Unread:
    """Scan every shard of ``folder`` and write ``target/<split>.npz`` for each split; return what is not read.

    ``report(what, done, total)`` counts the shards. Raises ``DataError`` with every fault of every shard, a line each:
    missing, cut off, another number of samples than ``info`` says, a key twice; or when ``target`` cannot be written.
    """
    indexes, unread = _scan_splits(folder, info, report)
    try:
        _save(target, indexes)
    except OSError as error:
        raise DataError(f"'{target}' cannot be written: {error.strerror}") from None
    return unread


def ensure_index(folder: Path, info: DatasetInfo, *, report: Report | None = None) -> dict[str, SplitIndex]:
    """Return the index of every split, made where there is none; the first of several processes does the work.

    Members of the shards that are not read are logged when the index is made.

    Raises ``DataError`` with every fault, a line each: of the shards where they have to be scanned, and naming each
    shard that is gone or no longer what it was when it was indexed.
    """
    indexes = _current(folder, info)
    if indexes is not None:
        return indexes
    with _locked(folder):
        indexes = _current(folder, info)  # another process may have made it meanwhile
        if indexes is not None:
            return indexes
        earlier = _loaded(folder, info)
        if earlier is None:
            indexes, unread = _scan_splits(folder, info, report)
            if any(unread):
                logger.warning("'%s': not read: %s", folder, unread)
        else:
            indexes = _refreshed_splits(folder, info, earlier, report)
        with suppress(OSError):  # an index that cannot be kept costs time on every start, nothing else
            _save(writable_folder(folder), indexes)
    return indexes


def index_folder(folder: Path) -> Path:
    """Where the index of a data set is: in its ``_index`` folder, or else in the user's cache.

    Where ``_index`` cannot be written, as on a shared disk, the cache may hold a newer state of it.
    """
    beside, cached = folder / INDEX_FOLDER, _cached(folder)
    if beside.is_dir() and (os.access(beside, os.W_OK) or not cached.is_dir()):
        return beside
    return cached


def writable_folder(folder: Path) -> Path:
    """Where an index of a data set can be written: in its ``_index`` folder if there is one, or in the cache."""
    beside = folder / INDEX_FOLDER
    return beside if beside.is_dir() and os.access(beside, os.W_OK) else _cached(folder)


def _cached(folder: Path) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "nepa_scale" / "index" / hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]


def _paths(folder: Path, contents: SplitInfo) -> list[Path]:
    return [folder / filename for filename in contents.filenames]


def _scan_all(
    paths: Sequence[Path], lengths: Sequence[int], what: str, report: Report | None
) -> tuple[list[ShardIndex], list[str]]:
    """Scan shards, many of them in parallel; returns their indexes and the faults of those that are not as expected."""
    scanned, faults = [], []
    for done, (path, expected, outcome) in enumerate(zip(paths, lengths, _outcomes(paths), strict=True), start=1):
        if isinstance(outcome, str):
            faults.append(outcome)
        elif len(outcome.keys) != expected:
            faults.append(f"shard '{path}' must hold {expected} samples by _info.json, but {len(outcome.keys)} found")
        else:
            scanned.append(outcome)
        if report:
            report(what, done, len(paths))
    return scanned, faults


def _outcomes(paths: Sequence[Path]) -> Iterator[ShardIndex | str]:
    if (
        len(paths) < _FEW_SHARDS or cores() == 1 or multiprocessing.current_process().daemon
    ):  # which may have no children
        yield from map(_outcome, paths)
        return
    with ProcessPoolExecutor(cores(), mp_context=multiprocessing.get_context("fork"), initializer=start_worker) as pool:
        yield from pool.map(_outcome, paths)


def _outcome(path: Path) -> ShardIndex | str:
    """The index of a shard, or the line that says what is wrong with it."""
    try:
        return scan(path)
    except DataError as error:
        return str(error)


def _repeated_keys(paths: Sequence[Path], scanned: Sequence[ShardIndex]) -> list[str]:
    keys = np.concatenate([index.keys for index in scanned])
    _, first, counts = np.unique(keys, return_index=True, return_counts=True)
    if not (counts > 1).any():
        return []
    shard_of = np.repeat(np.arange(len(paths)), [len(index.keys) for index in scanned])
    key = keys[first[counts > 1].min()]
    holders = " and ".join(f"'{paths[shard]}'" for shard in shard_of[keys == key])
    return [f"sample '{printable(key.decode('utf-8', 'replace'))}' is in {holders} ({(counts > 1).sum()} such names)"]


def _joined(paths: Sequence[Path], scanned: Sequence[ShardIndex]) -> SplitIndex:
    states = [path.stat() for path in paths]
    return SplitIndex(
        keys=np.concatenate([index.keys for index in scanned]),
        samples=np.concatenate([index.samples for index in scanned], dtype=SAMPLE_TYPE),
        lengths=np.array([len(index.keys) for index in scanned], dtype=np.int64),
        sizes=np.array([state.st_size for state in states], dtype=np.int64),
        mtimes=np.array([state.st_mtime_ns for state in states], dtype=np.int64),
    )


def _scan_splits(folder: Path, info: DatasetInfo, report: Report | None) -> tuple[dict[str, SplitIndex], Unread]:
    problems: list[str] = []
    unread = Unread()
    indexes: dict[str, SplitIndex] = {}
    for split, contents in info.splits.items():
        paths = _paths(folder, contents)
        scanned, faults = _scan_all(paths, contents.shard_lengths, f"index of {split}", report)
        faults = faults or _repeated_keys(paths, scanned)
        problems += faults
        if not faults:
            indexes[split] = _joined(paths, scanned)
        for shard in scanned:
            unread.merge(shard.unread)
    if problems:
        raise DataError("\n".join(problems))
    return indexes, unread


def _refreshed_splits(
    folder: Path, info: DatasetInfo, known: dict[str, SplitIndex], report: Report | None
) -> dict[str, SplitIndex]:
    problems: list[str] = []
    indexes: dict[str, SplitIndex] = {}
    for split, contents in info.splits.items():
        indexes[split], faults = _refreshed(folder, contents, known[split], f"changed shards of {split}", report)
        problems += faults
    if problems:
        command = prepare_command("index", root=folder.parent, name=folder.name)
        raise DataError("\n".join([*problems, f"if '{folder}' was changed on purpose, re-index it: `{command}`"]))
    return indexes


def _save(target: Path, indexes: Mapping[str, SplitIndex]) -> None:
    for split, index in indexes.items():
        save_index(target / f"{split}.npz", index)


def save_index(path: Path, index: SplitIndex) -> None:
    """Write the index of a split to a file. Raises ``OSError``."""
    buffer = io.BytesIO()
    np.savez(buffer, version=np.array(_VERSION), **vars(index))
    write_atomically(path, buffer.getvalue())


def _current(folder: Path, info: DatasetInfo) -> dict[str, SplitIndex] | None:
    """The index of every split, if all are there and the shards are as they were."""
    indexes = _loaded(folder, info)
    if indexes is None or any(_stale(folder, info.splits[split], index) for split, index in indexes.items()):
        return None
    return indexes


def _loaded(folder: Path, info: DatasetInfo) -> dict[str, SplitIndex] | None:
    """The index of every split, up to date or not, if all are there."""
    indexes = {split: _load(index_folder(folder) / f"{split}.npz") for split in info.splits}
    readable = {split: index for split, index in indexes.items() if index is not None}
    return readable if len(readable) == len(indexes) else None


@until_changed
def _load(path: Path) -> SplitIndex | None:
    """The index in a file, or None where there is none that this version can read."""
    readable = suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
    with readable, path.open("rb") as file, np.load(file) as arrays:  # which refuses pickles
        if int(arrays["version"]) == _VERSION:
            return SplitIndex(**{name: arrays[name] for name in SplitIndex.__dataclass_fields__})
    return None


def _stale(folder: Path, contents: SplitInfo, index: SplitIndex) -> bool:
    """Whether any shard has changed since it was scanned, by its size and time."""
    if index.lengths.tolist() != list(contents.shard_lengths):
        return True
    try:
        states = [path.stat() for path in _paths(folder, contents)]
    except OSError:
        return True
    return [(s.st_size, s.st_mtime_ns) for s in states] != list(zip(index.sizes, index.mtimes, strict=True))


def _refreshed(
    folder: Path, contents: SplitInfo, index: SplitIndex, what: str, report: Report | None
) -> tuple[SplitIndex, list[str]]:
    """The index with the times that the shards have now, and the faults of those that changed since.

    A shard of the same size but another time is scanned again: only if every sample lies where it did, with the same
    name and label, is it taken for a copy.
    """
    paths = _paths(folder, contents)
    if index.lengths.tolist() != list(contents.shard_lengths):
        return index, [f"'{folder}': _info.json lists other shards than when it was indexed"]
    problems = [f"shard '{path}' is missing" for path in paths if not path.is_file()]
    if problems:
        return index, problems
    states, stops = [path.stat() for path in paths], np.cumsum(index.lengths)
    mtimes = np.array([state.st_mtime_ns for state in states], dtype=np.int64)
    sizes = np.array([state.st_size for state in states], dtype=np.int64)
    changed = np.flatnonzero((mtimes != index.mtimes) | (sizes != index.sizes)).tolist()
    outcomes = _outcomes([paths[shard] for shard in changed])
    for done, (shard, again) in enumerate(zip(changed, outcomes, strict=True), start=1):
        rows = slice(stops[shard] - index.lengths[shard], stops[shard])
        if isinstance(again, str):
            problems.append(again)
        elif sizes[shard] != index.sizes[shard] or not _same(again, index.keys[rows], index.samples[rows]):
            problems.append(f"shard '{paths[shard]}' changed since it was indexed")
        if report:
            report(what, done, len(changed))
    return replace(index, mtimes=mtimes), problems


def _same(again: ShardIndex, keys: NDArray[np.bytes_], samples: NDArray[np.void]) -> bool:
    return np.array_equal(again.keys, keys) and np.array_equal(again.samples, samples)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time work on an index. Where locks do not work, each makes its own."""
    lock = FileLock(_cached(folder).with_suffix(".lock"))
    with suppress(OSError, NotImplementedError):
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
