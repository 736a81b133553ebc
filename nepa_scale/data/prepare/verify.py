"""Every fault of a data set, one line each."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from nepa_scale.data.ade20k import base_folder
from nepa_scale.data.index import INDEX_FOLDER, ensure_index
from nepa_scale.data.info import INFO_NAME, DatasetInfo
from nepa_scale.data.layout import Layout, dataset_info, find_layout
from nepa_scale.data.pool import unordered
from nepa_scale.data.prepare.ade20k_files import unread
from nepa_scale.data.prepare.checksums import SUMS_NAME, read_sums, sum_of
from nepa_scale.data.prepare.parts import part_problems
from nepa_scale.data.prepare.verify_ade20k import verify_ade20k
from nepa_scale.data.prepare.verify_shard import ShardCheck, ShardFindings, check_shard
from nepa_scale.data.reporting import Report
from nepa_scale.data.unread import Unread
from nepa_scale.utils.errors import DataError, nearest

_BESIDE = {INFO_NAME, SUMS_NAME, INDEX_FOLDER}
_DESCRIPTIONS = ("README", "LICENSE", ".git")  # what may lie beside shards that were downloaded


@dataclass
class Findings:
    """What is wrong, and what else is to be said."""

    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def verify(root: Path, name: str, workers: int | None, report: Report) -> Findings:
    """Check everything about ``root/name``. Raises ``DataError`` if there is no such folder, or no data set in it."""
    folder = root / name
    if not folder.is_dir():
        names = [path.name for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
        raise DataError(f"'{folder}' is no folder{nearest(name, names)}")
    layout = find_layout(folder)
    if layout not in {Layout.SHARDS, Layout.ADE20K}:
        raise DataError(f"'{folder}' is no data set: it has neither shards nor ADE20K's images/training")
    if layout is Layout.ADE20K:
        faults, images = verify_ade20k(folder, workers, report)
        remarks = [f"'{folder}' is read as a folder: there are no checksums", *unread(base_folder(folder) or folder)]
        return _concluded(folder, Findings(faults, remarks), images)
    try:
        info = dataset_info(root, name)
    except DataError as error:
        return Findings(str(error).splitlines())
    return _verify_shards(folder, info, workers, report)


def _verify_shards(folder: Path, info: DatasetInfo, workers: int | None, report: Report) -> Findings:
    found = Findings(_stray_files(folder, info))
    sums: dict[str, str] | None = {}
    try:
        sums = read_sums(folder)
    except DataError as error:
        found.faults.append(str(error))
    if sums is None:
        found.remarks.append(f"'{folder}' has no {SUMS_NAME}: bytes that changed and still decode cannot be noticed")
    else:
        found.faults += _sum_faults(folder, info, sums)
    unread, deep = Unread(), 0
    for split in info.splits:
        outcome = _check_split(folder, info, split, sums or {}, workers, report)
        found.faults += outcome.faults
        unread.merge(outcome.unread)
        deep += outcome.deep
    if any(unread):
        found.remarks.append(f"not read: {unread}")
    if deep:
        found.remarks.append(f"{deep:,} images have one channel of 16 bits, of which the upper 8 are used")
    if not found.faults and (folder / INDEX_FOLDER).is_dir():
        found.faults += _index_faults(folder, info)
    return _concluded(folder, found, sum(split.num_samples for split in info.splits.values()))


def _concluded(folder: Path, found: Findings, images: int) -> Findings:
    count = len(found.faults)
    verdict = f"{count} fault{'s' if count > 1 else ''}" if count else "no fault"
    found.remarks.append(f"{folder}: {images} images checked, {verdict}")
    return found


def _stray_files(folder: Path, info: DatasetInfo) -> list[str]:
    expected = {filename for split in info.splits.values() for filename in split.filenames} | _BESIDE
    strays = sorted(path for path in folder.iterdir() if path.name not in expected)
    return [f"'{path}' does not belong to the data set" for path in strays if not path.name.startswith(_DESCRIPTIONS)]


def _sum_faults(folder: Path, info: DatasetInfo, sums: dict[str, str]) -> list[str]:
    """What the checksums lack, and files other than shards that differ; shards are compared where they are read."""
    shards = [filename for split in info.splits.values() for filename in split.filenames]
    faults = [f"'{folder / SUMS_NAME}' lacks '{name}'" for name in [*shards, INFO_NAME] if name not in sums]
    for name in sorted(set(sums) - set(shards)):
        path = folder / name
        if not path.is_file():
            faults.append(f"'{path}' is missing, but listed in {SUMS_NAME}")
        elif sum_of(path) != sums[name]:
            faults.append(f"'{path}' is not the file of {SUMS_NAME}: its SHA-256 differs")
    return faults


def _check_split(
    folder: Path, info: DatasetInfo, split: str, sums: dict[str, str], workers: int | None, report: Report
) -> ShardFindings:
    """Everything found in the shards of a split."""
    contents = info.splits[split]
    total = ShardFindings(split, contents.num_samples)
    checks = [
        ShardCheck(folder / filename, length, info.num_classes, len(info.mask_class_names), sums.get(filename))
        for filename, length in zip(contents.filenames, contents.shard_lengths, strict=True)
    ]
    faults: dict[str, list[str]] = {}
    holders: dict[str, str] = {}
    repeated: set[str] = set()
    done = 0
    with closing(unordered(check_shard, checks, workers)) as outcomes:
        for outcome in outcomes:
            faults[outcome.filename] = outcome.faults
            total.unread.merge(outcome.unread)
            total.masks.merge(outcome.masks)
            total.deep += outcome.deep
            for key in outcome.keys:
                if holders.setdefault(key, outcome.filename) != outcome.filename:
                    both = " and ".join(sorted((holders[key], outcome.filename)))
                    repeated.add(f"'{folder}': {both} hold {key!r}")
            done += outcome.expected
            report(f"{split} images", done, contents.num_samples)
    in_order = [line for filename in contents.filenames for line in faults[filename]]
    unlabelled = filter(None, [total.masks.fault(split)])
    total.faults += [*part_problems(contents.filenames, f"'{folder}'"), *in_order, *sorted(repeated), *unlabelled]
    return total


def _index_faults(folder: Path, info: DatasetInfo) -> list[str]:
    try:
        ensure_index(folder, info)
    except DataError as error:
        return str(error).splitlines()
    return []
