"""Shards that are there already: completed with ``_info.json``, checksums and an index; indexed or measured anew."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nepa_scale.data.file_io import compressed_shards, gaps, part_problems, splits_of
from nepa_scale.data.index import INDEX_FOLDER, writable_folder, write_index
from nepa_scale.data.info import INFO_NAME, MAX_CLASSES, SPLITS, DatasetInfo, parse_info, split_content
from nepa_scale.data.layout import Layout, dataset_info, find_layout
from nepa_scale.data.prepare.finishing import SUMS_NAME, existing_folder, read_sums, sum_of, write_sums
from nepa_scale.data.prepare.pixels import measure
from nepa_scale.data.shard_index import MASK_EXTENSION, NO_LABEL, scan
from nepa_scale.distributed.processes import unordered
from nepa_scale.utils.errors import DataError, shortened
from nepa_scale.utils.files import read_json, write_json
from nepa_scale.utils.progress import Report


@dataclass(frozen=True)
class _Scanned:
    """The contents of a shard. ``masks``: samples with a mask; ``unlabelled``: without a class; ``without``: what the
    first of these has instead."""

    filename: str
    length: int = 0
    least_label: int = -1
    largest_label: int = -1
    masks: int = 0
    unlabelled: int = 0
    without: str = ""
    sha256: str = ""
    fault: str = ""


def adopt(root: Path, name: str, workers: int | None, report: Report) -> str:
    """Complete the folder of shards ``root/name``; return the lines that say what was found, and what is not read.

    An ``_info.json`` that is there is checked against the shards and kept. Raises ``DataError`` with every problem, one
    per line, before anything is written.
    """
    folder = existing_folder(root, name)
    _remove_leftovers(folder)
    info = dataset_info(root, name) if (folder / INFO_NAME).exists() else None
    filenames = _listed(info) if info else _sorted_by_split(folder)
    scanned = _scan_all(folder, [file for files in filenames.values() for file in files], workers, report)
    problems = [line for files in filenames.values() for line in part_problems(files, f"'{folder}'")]
    problems += [shard.fault for shard in scanned.values() if shard.fault]
    if info:
        problems += _disagreements(folder, info, scanned)
    if problems:
        raise DataError("\n".join(problems))
    content = None if info else _content(name, filenames, scanned)
    info = info or parse_info(content, name)
    unread = write_index(folder, info, folder / INDEX_FOLDER, report=report)  # which also finds names that occur twice
    if content:
        write_json(folder / INFO_NAME, content)
    sums = {filename: shard.sha256 for filename, shard in scanned.items()}
    write_sums(folder, {**sums, INFO_NAME: sum_of(folder / INFO_NAME)})
    counts = " and ".join(f"{info.splits[split].num_samples} {split}" for split in SPLITS)
    lines = [f"{folder}: adopted, {counts} images, {info.num_classes} classes{_advice(info, scanned)}"]
    if (masks := sum(shard.masks for shard in scanned.values())) and not info.mask_class_names:
        advice = f'add "mask_class_names": [...] to {INFO_NAME}, a name for each value from 1 on'
        lines.append(f"{masks:,} samples have a mask ({MASK_EXTENSION}): for segmentation {advice}")
    if any(unread):
        lines.append(f"not read: {unread}")
    if missing := [name for files in filenames.values() for name in gaps(files)]:
        lines.append(f"by the numbers of the shards these are missing: {shortened(missing)}")
    return "\n".join(lines)


def _remove_leftovers(folder: Path) -> None:
    """Remove what an earlier process was writing when it was killed."""
    for name in (INFO_NAME, SUMS_NAME):
        for path in folder.glob(f".{name}.*.tmp"):
            path.unlink(missing_ok=True)


def _listed(info: DatasetInfo) -> dict[str, list[str]]:
    return {split: list(contents.filenames) for split, contents in info.splits.items()}


def _sorted_by_split(folder: Path) -> dict[str, list[str]]:
    """Tell the splits apart by the names of the shards. Raises ``DataError``."""
    filenames: dict[str, list[str]] = {split: [] for split in SPLITS}
    unclear = []
    for path in sorted(folder.glob("*.tar")):
        splits = splits_of(path.name)
        if len(splits) == 1:
            filenames[splits.pop()].append(path.name)
        else:
            unclear.append(path.name)
    if packed := compressed_shards(folder):
        raise DataError(packed)
    problems = [f"'{folder}' has no shard with '{split}' in its name" for split in SPLITS if not filenames[split]]
    if unclear:
        problems.append(f"'{folder}': neither train nor validation by name: {shortened(unclear)}")
    if problems:
        raise DataError("\n".join(problems))
    return filenames


def _scan_all(folder: Path, filenames: Sequence[str], workers: int | None, report: Report) -> dict[str, _Scanned]:
    scanned: dict[str, _Scanned] = {}
    with closing(unordered(_scan, [folder / filename for filename in filenames], workers)) as shards:
        for shard in shards:
            scanned[shard.filename] = shard
            report("shards", len(scanned), len(filenames))
    return {filename: scanned[filename] for filename in filenames}


def _scan(path: Path) -> _Scanned:
    try:
        index = scan(path)
        labels = index.samples["label"]
        if not len(labels):
            others = f"; it holds {index.unread}" if any(index.unread) else ""
            return _Scanned(path.name, fault=f"shard '{path}' has no images (.jpg, .jpeg or .png){others}")
        if labels.max() >= MAX_CLASSES:
            fault = f"shard '{path}': class {labels.max():,} is out of range: {MAX_CLASSES:,} classes are allowed"
            return _Scanned(path.name, fault=fault)
        masks, unlabelled = int((index.samples["mask_size"] > 0).sum()), int((labels == NO_LABEL).sum())
        least, largest = int(labels.min()), int(labels.max())
        return _Scanned(path.name, len(labels), least, largest, masks, unlabelled, index.unlabelled, sum_of(path))
    except OSError as error:
        return _Scanned(path.name, fault=f"shard '{path}' cannot be read: {error.strerror}")
    except DataError as error:
        return _Scanned(path.name, fault=str(error))


def _disagreements(folder: Path, info: DatasetInfo, scanned: dict[str, _Scanned]) -> list[str]:
    """The points in which ``_info.json`` and the shards differ."""
    problems = []
    for contents in info.splits.values():
        for filename, length in zip(contents.filenames, contents.shard_lengths, strict=True):
            shard = scanned[filename]
            if shard.fault:
                continue
            if shard.length != length:
                problems.append(
                    f"shard '{folder / filename}' must hold {length} samples by {INFO_NAME}, but {shard.length} found"
                )
            if info.num_classes and not 0 <= shard.least_label <= shard.largest_label < info.num_classes:
                problems.append(f"shard '{folder / filename}' has labels that are not from 0 to {info.num_classes - 1}")
    return problems


def _classes(scanned: dict[str, _Scanned]) -> int:
    """The number of classes by the labels: 0 unless every sample has one."""
    labelled = all(shard.least_label >= 0 for shard in scanned.values())
    return max(shard.largest_label for shard in scanned.values()) + 1 if labelled else 0


def _advice(info: DatasetInfo, scanned: dict[str, _Scanned]) -> str:
    """The reason why there are no classes, or an empty text."""
    if info.num_classes:
        return ""
    if classes := _classes(scanned):
        return f' (to use the labels, add "num_classes": {classes} to {INFO_NAME})'
    count, total = sum(shard.unlabelled for shard in scanned.values()), sum(shard.length for shard in scanned.values())
    shard = next(shard for shard in scanned.values() if shard.unlabelled)
    return (
        f": {count:,} of {total:,} samples have no .cls with a whole number from 0 on; "
        f"in '{shard.filename}' {shard.without}"
    )


def _content(name: str, filenames: dict[str, list[str]], scanned: dict[str, _Scanned]) -> dict[str, Any]:
    """``_info.json`` from what the shards hold; without labels on every sample there are no classes."""
    splits = {
        split: split_content(split, {file: scanned[file].length for file in files})
        for split, files in filenames.items()
    }
    return {"name": name, "num_classes": _classes(scanned), "prepared": {"kind": "adopt"}, "splits": splits}


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
    measured = measure([folder / filename for filename in info.splits["train"].filenames], workers, report)
    statistics, path = measured.sums.as_json(), folder / INFO_NAME
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
    bad = f" ({measured.bad} that cannot be decoded left out)" if measured.bad else ""
    return f"{path}: {', '.join(named)} of the training images{bad}"
