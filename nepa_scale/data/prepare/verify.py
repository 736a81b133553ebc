"""Every fault of a data set, one line each. Names in shards are compared and printed, never used as paths."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from nepa_scale.data.ade20k import base_folder
from nepa_scale.data.decode import decode_rgb, is_deep
from nepa_scale.data.file_io import part_problems
from nepa_scale.data.index import INDEX_FOLDER, ensure_index
from nepa_scale.data.info import INFO_NAME, DatasetInfo
from nepa_scale.data.layout import Layout, dataset_info, find_layout
from nepa_scale.data.prepare.ade20k import unread, verify_ade20k
from nepa_scale.data.prepare.finishing import SUMS_NAME, existing_folder, read_sums, sum_of
from nepa_scale.data.prepare.pixels import MaskCount, check_mask
from nepa_scale.data.shard_index import (
    LABEL_EXTENSION,
    LONGEST_KEY,
    MASK_EXTENSION,
    Unread,
    is_plain,
    no_image,
    role_of,
    split_name,
    suggests_sample,
    walk,
)
from nepa_scale.distributed.processes import unordered
from nepa_scale.utils.errors import DataError
from nepa_scale.utils.progress import Report

_BESIDE = {INFO_NAME, SUMS_NAME, INDEX_FOLDER}
_DESCRIPTIONS = ("README", "LICENSE", ".git")  # what may lie beside shards that were downloaded
_CODE = frozenset({"pkl", "pickle", "pyd", "pt", "pth"})  # some readers would execute what is in them
_LARGEST = 2**28  # bytes of an image


@dataclass
class Findings:
    """The faults of a data set, and remarks that are none."""

    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def verify(root: Path, name: str, workers: int | None, report: Report) -> Findings:
    """Check everything about ``root/name``. Raises ``DataError`` if there is no such folder, or no data set in it."""
    folder = existing_folder(root, name)
    layout = find_layout(folder)
    if layout not in {Layout.SHARDS, Layout.ADE20K}:
        raise DataError(f"'{folder}' is no data set: it has neither shards nor ADE20K's images/training")
    if layout is Layout.ADE20K:
        faults, remarks, images = verify_ade20k(folder, workers, report)
        remarks += [f"'{folder}' is read as a folder: there are no checksums", *unread(base_folder(folder) or folder)]
        return _concluded(folder, Findings(faults, remarks), images)
    try:
        info = dataset_info(root, name)
    except DataError as error:
        return Findings(str(error).splitlines())
    return _verify_shards(folder, info, workers, report)


def _verify_shards(folder: Path, info: DatasetInfo, workers: int | None, report: Report) -> Findings:
    findings = Findings(_stray_files(folder, info))
    sums: dict[str, str] | None = {}
    try:
        sums = read_sums(folder)
    except DataError as error:
        findings.faults.append(str(error))
    if sums is None:
        findings.remarks.append(f"'{folder}' has no {SUMS_NAME}: bytes that changed and still decode cannot be noticed")
    else:
        findings.faults += _sum_faults(folder, info, sums)
    unread, deep, masks = Unread(), 0, MaskCount()
    for split in info.splits:
        outcome = _check_split(folder, info, split, sums or {}, workers, report)
        findings.faults += outcome.faults
        unread.merge(outcome.unread)
        deep += outcome.deep
        masks.merge(outcome.masks)
    if any(unread):
        findings.remarks.append(f"not read: {unread}")
    if deep:
        findings.remarks.append(f"{deep:,} images have one channel of 16 bits, of which the upper 8 are used")
    findings.remarks += masks.remarks()
    if not findings.faults and (folder / INDEX_FOLDER).is_dir():
        findings.faults += _index_faults(folder, info)
    return _concluded(folder, findings, sum(split.num_samples for split in info.splits.values()))


def _concluded(folder: Path, findings: Findings, images: int) -> Findings:
    count = len(findings.faults)
    verdict = f"{count} fault{'s' if count > 1 else ''}" if count else "no fault"
    findings.remarks.append(f"{folder}: {images} images checked, {verdict}")
    return findings


def _stray_files(folder: Path, info: DatasetInfo) -> list[str]:
    expected = {filename for split in info.splits.values() for filename in split.filenames} | _BESIDE
    strays = sorted(path for path in folder.iterdir() if path.name not in expected)
    return [f"'{path}' does not belong to the data set" for path in strays if not path.name.startswith(_DESCRIPTIONS)]


def _sum_faults(folder: Path, info: DatasetInfo, sums: dict[str, str]) -> list[str]:
    """Files without a checksum, and files other than shards that differ from theirs. Shards are compared when read."""
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


@dataclass(frozen=True)
class ShardCheck:
    """A shard to check, and what it must hold."""

    path: Path
    length: int
    num_classes: int
    mask_classes: int
    sha256: str | None


@dataclass
class ShardFindings:
    """What a check found; ``keys`` are those of the shard's samples, ``deep`` counts images of 16 bits."""

    filename: str
    expected: int
    faults: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    unread: Unread = field(default_factory=Unread)
    masks: MaskCount = field(default_factory=MaskCount)
    deep: int = 0


def check_shard(check: ShardCheck) -> ShardFindings:
    """List every fault of a shard."""
    findings = ShardFindings(check.path.name, check.length)
    where = f"shard '{check.path}'"
    try:
        if not check.path.stat().st_size:
            findings.faults.append(f"{where} is empty (0 bytes)")
            return findings
        if check.sha256 and sum_of(check.path) != check.sha256:
            findings.faults.append(f"{where}: its SHA-256 is not that of SHA256SUMS")
        with check.path.open("rb") as file:
            _check_content(check, file, findings)
    except FileNotFoundError:
        findings.faults.append(f"{where} is missing")
    except OSError as error:
        findings.faults.append(f"{where} cannot be read: {error.strerror}")
    return findings


def _check_content(check: ShardCheck, file: IO[bytes], findings: ShardFindings) -> None:
    where = f"shard '{check.path}'"
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        for member in walk(file, where):
            complaint = _complaint(member)
            if complaint:
                findings.faults.append(f"{where}: member {member.name!r:.100} {complaint}")
            elif member.isreg():
                if not role_of(split_name(member.name)[1]):
                    findings.unread.add(member.name)
                role = _add(member, samples)
                if role:
                    findings.faults.append(f"{where}: sample {split_name(member.name)[0]!r} has two members '{role}'")
    except DataError as error:
        findings.faults.append(str(error))
    images = {key: members for key, members in samples.items() if any(map(_makes_a_sample, members))}
    findings.keys = list(images)
    if len(images) != check.length:
        findings.faults.append(f"{where} must hold {check.length} samples by _info.json, but {len(images)} found")
    for key, members in images.items():
        findings.faults += [
            f"{where}, sample {key!r}: {fault}" for fault in _sample_faults(check, file, members, findings)
        ]


def _makes_a_sample(role: str) -> bool:
    return role == "image" or suggests_sample(role)


def _complaint(member: tarfile.TarInfo) -> str:
    """The fault of a member by its header alone, or an empty text."""
    name, extension = member.name, member.name.rpartition(".")[2].lower()
    if member.isdir() and ".." not in name.split("/") and not name.startswith("/"):
        return ""
    if not is_plain(member):
        return "is a link or a device, not a file"
    if name.startswith("/") or ".." in name.split("/"):
        return "has a name that points outside"
    if not name.isprintable():
        return "has a name with characters that cannot be printed"
    if len(split_name(member.name)[0].encode("utf-8", "surrogateescape")) > LONGEST_KEY:
        return f"has a name of more than {LONGEST_KEY} bytes"
    return "is pickled, which some readers execute" if extension in _CODE else ""


def _add(member: tarfile.TarInfo, samples: dict[str, dict[str, tarfile.TarInfo]]) -> str:
    """Put a member into its sample; return its role if that is taken."""
    key, extension = split_name(member.name)
    role = role_of(extension) or extension
    members = samples.setdefault(key, {})
    if role in members:
        return role
    members[role] = member
    return ""


def _sample_faults(
    check: ShardCheck, file: IO[bytes], members: dict[str, tarfile.TarInfo], findings: ShardFindings
) -> Iterator[str]:
    size = None
    if "image" not in members:
        yield no_image(members)
    else:
        try:
            image = _read(file, members["image"])
            height, width = decode_rgb(image).shape[:2]
            size = width, height
            findings.deep += is_deep(image)
        except DataError as error:
            yield str(error)
    if check.num_classes:
        label = _read(file, members[LABEL_EXTENSION]).strip() if LABEL_EXTENSION in members else None
        if label is None:
            yield "no label (.cls)"
        elif not label.isdigit() or len(label) > 9:
            yield f".cls must hold a class from 0 to {check.num_classes - 1}, holds {label[:20]!r}"
        elif int(label) >= check.num_classes:
            yield f"class {int(label)} is out of range: there are {check.num_classes} classes"
    if check.mask_classes:
        if MASK_EXTENSION not in members:
            yield "no mask (.seg.png)"
        elif size:
            try:
                mask = _read(file, members[MASK_EXTENSION])
                check_mask(image, mask, size, check.mask_classes, findings.masks)
            except DataError as error:
                yield str(error)


def _read(file: IO[bytes], member: tarfile.TarInfo) -> bytes:
    if member.size > _LARGEST:
        raise DataError(f"a member of {member.size:,} bytes, more than the {_LARGEST:,} allowed")
    file.seek(member.offset_data)
    return file.read(member.size)
