"""``SHA256SUMS``, in the format of ``sha256sum``. Standard library only."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from nepa_scale.data.text import read_text
from nepa_scale.utils.errors import DataError
from nepa_scale.utils.files import write_atomically

SUMS_NAME = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\0]+)")


def write_sums(folder: Path, sums: Mapping[str, str]) -> None:
    """Write the digests of files in ``folder``, so that ``sha256sum -c SHA256SUMS`` checks them."""
    write_atomically(folder / SUMS_NAME, "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))


def read_sums(folder: Path) -> dict[str, str] | None:
    """The digest of every file listed, or None where there is no list. Raises ``DataError`` for a line that is none."""
    path = folder / SUMS_NAME
    if not path.exists():
        return None
    matches = [_LINE.fullmatch(line) for line in read_text(path).splitlines()]
    for number, match in enumerate(matches, start=1):
        if not match:
            raise DataError(f"'{path}', line {number}: expected a SHA-256 and a file name")
    return {match[2]: match[1] for match in matches if match}


def sum_of(path: Path) -> str:
    """The digest of a file. Raises ``OSError``."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
