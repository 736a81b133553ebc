"""Small text files of a data set, in whatever encoding they were written. Standard library only."""

from __future__ import annotations

import codecs
from contextlib import suppress
from pathlib import Path

from nepa_scale.utils.errors import DataError


def read_text(path: Path) -> str:
    """The content of a file as ``decode_text`` reads it. Raises ``DataError`` if it cannot be read."""
    try:
        return decode_text(path.read_bytes())
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror}") from None


def decode_text(content: bytes) -> str:
    """Text in UTF-8, or in UTF-16 with a byte-order mark, or else in Latin-1, which any bytes are; without the mark."""
    with suppress(UnicodeDecodeError):
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return content.decode("utf-16")
        return content.decode("utf-8-sig")
    return content.decode("latin-1")
