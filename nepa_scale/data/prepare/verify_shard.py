"""Every fault of one shard. Member names are compared and printed, never used as paths; nothing is unpickled."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from nepa_scale.data.decode import decode_rgb, is_deep
from nepa_scale.data.prepare.checksums import sum_of
from nepa_scale.data.prepare.pixels import MaskCount, check_mask
from nepa_scale.data.prepare.tar_walk import is_plain, walk
from nepa_scale.data.shard_index import (
    LABEL_EXTENSION,
    LONGEST_KEY,
    MASK_EXTENSION,
    no_image,
    role_of,
    split_name,
    suggests_sample,
)
from nepa_scale.data.unread import Unread
from nepa_scale.utils.errors import DataError

_CODE = frozenset({"pkl", "pickle", "pyd", "pt", "pth"})  # some readers would execute what is in them
_LARGEST = 2**28  # bytes of an image


@dataclass(frozen=True)
class ShardCheck:
    """What a shard must be."""

    path: Path
    length: int
    num_classes: int
    mask_classes: int
    sha256: str | None


@dataclass
class ShardFindings:
    """What it is; ``keys`` are those of its samples, ``deep`` counts images of 16 bits."""

    filename: str
    expected: int
    faults: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    unread: Unread = field(default_factory=Unread)
    masks: MaskCount = field(default_factory=MaskCount)
    deep: int = 0


def check_shard(check: ShardCheck) -> ShardFindings:
    """List every fault of a shard."""
    found = ShardFindings(check.path.name, check.length)
    where = f"shard '{check.path}'"
    try:
        if not check.path.stat().st_size:
            found.faults.append(f"{where} is empty (0 bytes)")
            return found
        if check.sha256 and sum_of(check.path) != check.sha256:
            found.faults.append(f"{where}: its SHA-256 is not that of SHA256SUMS")
        with check.path.open("rb") as file:
            _check_content(check, file, found)
    except FileNotFoundError:
        found.faults.append(f"{where} is missing")
    except OSError as error:
        found.faults.append(f"{where} cannot be read: {error.strerror}")
    return found


def _check_content(check: ShardCheck, file: IO[bytes], found: ShardFindings) -> None:
    where = f"shard '{check.path}'"
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        for member in walk(file, str(check.path)):
            complaint = _complaint(member)
            if complaint:
                found.faults.append(f"{where}: member {member.name!r:.100} {complaint}")
            elif member.isreg():
                if not role_of(split_name(member.name)[1]):
                    found.unread.add(member.name)
                role = _add(member, samples)
                if role:
                    found.faults.append(f"{where}: sample {split_name(member.name)[0]!r} has two members '{role}'")
    except DataError as error:
        found.faults.append(f"shard {error}")
    images = {key: members for key, members in samples.items() if any(map(_makes_a_sample, members))}
    found.keys = list(images)
    if len(images) != check.length:
        found.faults.append(f"{where} must hold {check.length} samples by _info.json, but {len(images)} found")
    for key, members in images.items():
        found.faults += [f"{where}, sample {key!r}: {fault}" for fault in _sample_faults(check, file, members, found)]


def _makes_a_sample(role: str) -> bool:
    return role == "image" or suggests_sample(role)


def _complaint(member: tarfile.TarInfo) -> str:
    """What is wrong with a member whatever it holds."""
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
    check: ShardCheck, file: IO[bytes], members: dict[str, tarfile.TarInfo], found: ShardFindings
) -> Iterator[str]:
    size = None
    if "image" not in members:
        yield no_image(members)
    else:
        try:
            image = _read(file, members["image"])
            height, width = decode_rgb(image).shape[:2]
            size = width, height
            found.deep += is_deep(image)
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
                found.masks.add(labelled=check_mask(mask, size, check.mask_classes))
            except DataError as error:
                yield str(error)


def _read(file: IO[bytes], member: tarfile.TarInfo) -> bytes:
    if member.size > _LARGEST:
        raise DataError(f"a member of {member.size:,} bytes, more than the {_LARGEST:,} allowed")
    file.seek(member.offset_data)
    return file.read(member.size)
