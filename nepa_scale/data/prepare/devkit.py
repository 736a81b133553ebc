"""The classes of ImageNet's validation images, from the development kit of ILSVRC2012."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import NamedTuple

from nepa_scale.data.decode import first_line
from nepa_scale.data.prepare.tar_walk import is_plain, walk
from nepa_scale.data.text import decode_text
from nepa_scale.utils.errors import DataError

KIT = "ILSVRC2012_devkit_t12.tar.gz"
_LABELS, _TABLE = "data/ILSVRC2012_validation_ground_truth.txt", "data/meta.mat"
_LARGEST = 2**27  # bytes of the whole kit, unpacked; the real one has a few millions


class Devkit(NamedTuple):
    """``classes``: the wnids, sorted; ``validation``: the wnid of each validation image, in order of their numbers."""

    classes: list[str]
    validation: list[str]


def read_devkit(path: Path) -> Devkit:
    """Read the kit in memory. Raises ``DataError`` naming the file that is missing or not as published."""
    content = _unpacked(path)
    files = _wanted(path, content)
    wnids = _wnids(f"{path}: {_TABLE}", files[_TABLE])
    validation = []
    for number, line in enumerate(decode_text(files[_LABELS]).split(), start=1):
        if not line.isdecimal() or int(line) not in wnids:
            raise DataError(f"'{path}': {_LABELS}, line {number}: {line[:20]!r} is no class of {_TABLE}")
        validation.append(wnids[int(line)])
    return Devkit(sorted(wnids.values()), validation)


def _unpacked(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError:
        raise DataError(f"'{path}' is missing: it holds the classes of the validation images") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"'{path}' is not a whole .tar.gz file: {error}") from None
    if len(content) > _LARGEST:
        raise DataError(f"'{path}' unpacks to more than {_LARGEST:,} bytes: it is not the published kit")
    return content


def _wanted(path: Path, content: bytes) -> dict[str, bytes]:
    found = {}
    for member in walk(io.BytesIO(content), str(path)):
        inside = member.name.partition("/")[2]
        if inside in {_LABELS, _TABLE} and is_plain(member):
            found[inside] = content[member.offset_data : member.offset_data + member.size]
    missing = [name for name in (_LABELS, _TABLE) if name not in found]
    if missing:
        raise DataError("\n".join(f"'{path}' has no {name}" for name in missing))
    return found


def _wnids(name: str, content: bytes) -> dict[int, str]:
    """The wnid of every class by its number in ILSVRC; the table also holds inner nodes of the hierarchy."""
    from scipy.io import loadmat

    try:
        synsets = loadmat(io.BytesIO(content), squeeze_me=True)["synsets"]
        rows = zip(synsets["ILSVRC2012_ID"], synsets["WNID"], synsets["num_children"], strict=True)
        wnids = {int(number): str(wnid) for number, wnid, children in rows if int(children) == 0}
    except Exception as error:  # a parser of a format without a checksum: anything can come out of damaged input
        raise DataError(f"'{name}' is not the published table: {first_line(error)}") from None
    if not wnids or len(set(wnids.values())) != len(wnids):
        raise DataError(f"'{name}' is not the published table: it has no classes, or one twice")
    return wnids
