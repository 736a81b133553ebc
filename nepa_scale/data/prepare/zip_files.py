"""The members of a zip file that can be read in place. Standard library only."""

from __future__ import annotations

import zipfile
from pathlib import Path

from nepa_scale.data.prepare.references import ZipEntry
from nepa_scale.utils.errors import DataError, shortened

LARGEST = 2**28  # bytes of one member; the largest photograph of ADE20K has 3 MB
_ENCRYPTED = 0x1


def list_zip(path: Path) -> list[ZipEntry]:
    """List the files of an archive.

    Raises ``DataError`` for what is no zip file, for encrypted members, for a name twice, and for members so large that
    they can only be an attack or a mistake.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
    except (zipfile.BadZipFile, NotImplementedError, UnicodeError, ValueError) as error:
        raise DataError(f"'{path}' is not a whole zip file: {error}") from None
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror or error}") from None
    names: set[str] = set()
    twice = [member.filename for member in members if member.filename in names or names.add(member.filename)]  # type: ignore[func-returns-value]
    problems = [
        (f"holds a name twice: {shortened(map(repr, twice))}", twice),
        ("is encrypted: a password is not supported", [m for m in members if m.flag_bits & _ENCRYPTED]),
        (f"holds a member of more than {LARGEST:,} bytes", [m for m in members if m.file_size > LARGEST]),
    ]
    if lines := [f"'{path}' {complaint}" for complaint, found in problems if found]:
        raise DataError("\n".join(lines))
    return [ZipEntry(str(path), member.filename, member.file_size) for member in members]
