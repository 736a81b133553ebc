"""Masks as data sets have them become masks as shards store them: 0 for an unlabelled pixel, k + 1 for class k.

A value (the grey level of a pixel, or its index in a palette) or a colour stands for a class or for "unlabelled". One
that stands for nothing is a fault of its mask, so that a wrong table does not go unnoticed.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nepa_scale.data.decode import decode_mask, decode_rgb
from nepa_scale.utils.errors import DataError, shortened

MOST_CLASSES = 255  # of which the last is stored as 255
UNLABELLED_NAMES = frozenset({"unlabelled", "unlabeled", "void", "ignore", "-"})
_JPEG = b"\xff\xd8"
_SEPARATOR = r"[,;\s]\s*"
_COLOUR = _SEPARATOR.join([r"(\d{1,3})"] * 3)
_COLOUR_FIRST = re.compile(rf"{_COLOUR}{_SEPARATOR}(\S.*)")
_NAME_FIRST = re.compile(rf"(\S.*?){_SEPARATOR}{_COLOUR}")


@dataclass(frozen=True)
class Recoding:
    """What is stored for each value of a mask, or with ``in_colour`` for each colour 65536 x red + 256 x green + blue.

    What is in ``stored`` is all that masks may hold.
    """

    stored: Mapping[int, int]
    in_colour: bool = False

    def fingerprint(self) -> str:
        """A text that differs between two that store different things."""
        return f"{sorted(self.stored.items())} {self.in_colour}"


def by_value(classes: Sequence[int], ignored: Iterable[int]) -> Recoding:
    """Class k for the value ``classes[k]``, unlabelled for the ``ignored`` ones that are no class."""
    return Recoding(dict.fromkeys(ignored, 0) | {value: number for number, value in enumerate(classes, start=1)})


def by_colour(table: str, where: str) -> tuple[Recoding, tuple[str, ...]]:
    """The recoding of a table of colours, and the names of its classes in the order of their first lines.

    A line is ``red green blue name`` or ``name red green blue``, set apart by spaces, tabs or commas; a first line
    without a colour is a header. Colours of one name are one class, those named ``void`` or the like are unlabelled.
    Raises ``DataError`` with ``where`` and the line of what is no colour, or of one that stands twice.
    """
    names: dict[str, int] = {}
    stored: dict[int, int] = {}
    lines = [(number, line.strip()) for number, line in enumerate(table.splitlines(), start=1) if line.strip()]
    for number, line in lines:
        entry = _entry(line)
        if entry is None and number == lines[0][0]:
            continue
        if entry is None:
            raise DataError(f"'{where}', line {number}: expected red green blue name, each colour from 0 to 255")
        colour, name = entry
        if colour in stored:
            raise DataError(f"'{where}', line {number}: the colour {_shown(colour)} stands twice")
        stored[colour] = 0 if name.lower() in UNLABELLED_NAMES else names.setdefault(name, len(names) + 1)
    if not names:
        raise DataError(f"'{where}' names no classes")
    return Recoding(stored, in_colour=True), tuple(names)


def recoded(mask: bytes, recoding: Recoding) -> bytes:
    """An encoded mask as it is stored, a PNG. Raises ``DataError`` for what cannot be decoded or stands for nothing."""
    codes = _colours(mask) if recoding.in_colour else decode_mask(mask) + np.uint8(1)  # the values as they were
    known = np.array(sorted(recoding.stored), dtype=np.int64)
    stored = np.array([recoding.stored[code] for code in known.tolist()], dtype=np.uint8)
    places = np.searchsorted(known, codes).clip(max=len(known) - 1)
    strange = codes[known[places] != codes]
    if strange.size:
        codes_shown = np.unique(strange).tolist()
        what = shortened(map(_shown, codes_shown) if recoding.in_colour else map(str, codes_shown))
        kind = "colours" if recoding.in_colour else "values"
        raise DataError(f"the mask holds {kind} that stand for no class: {what} ({strange.size:,} pixels)")
    buffer = io.BytesIO()
    Image.fromarray(stored[places]).save(buffer, "PNG")
    return buffer.getvalue()


def _colours(mask: bytes) -> NDArray[np.int64]:
    """The colour [H, W] of every pixel as one number."""
    if mask.startswith(_JPEG):
        raise DataError("the mask is a JPEG, which does not keep colours")
    red, green, blue = np.moveaxis(decode_rgb(mask).astype(np.int64), -1, 0)
    return (red << 16) + (green << 8) + blue


def _entry(line: str) -> tuple[int, str] | None:
    """The colour and the name in a line of a table; None where there is none."""
    if found := _COLOUR_FIRST.fullmatch(line):
        *levels, name = found.groups()
    elif found := _NAME_FIRST.fullmatch(line):
        name, *levels = found.groups()
    else:
        return None
    red, green, blue = map(int, levels)
    return ((red << 16) + (green << 8) + blue, name) if max(red, green, blue) < 256 else None


def _shown(colour: int) -> str:
    return f"({colour >> 16}, {colour >> 8 & 255}, {colour & 255})"
