"""Pixels of images and masks: whether they can be used, in a smaller size, and their mean and standard deviation.

Mean and deviation come from sums of whole numbers, which are exact in any order.

Masks as data sets have them become masks as shards store them: 0 for an unlabelled pixel, k + 1 for class k. A value
(the grey level of a pixel, or its index in a palette) or a colour stands for a class or for "unlabelled". One that
stands for nothing is a fault of its mask, so that a wrong table does not go unnoticed.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nepa_scale.data.decode import decode_mask, decode_rgb, is_labelled, orientation
from nepa_scale.data.shard_index import scan
from nepa_scale.distributed.processes import unordered
from nepa_scale.utils.errors import DataError, shortened
from nepa_scale.utils.progress import Report

_QUALITY = 95  # with full colour resolution: a second compression that is hard to see
_LEVELS = np.arange(256, dtype=np.int64)


@dataclass
class MaskCount:
    """The masks of a split: how many, those without a labelled pixel, and those of images with an EXIF orientation."""

    masks: int = 0
    unlabelled: int = 0
    turned: int = 0

    def merge(self, other: MaskCount) -> None:
        """Count those of another part of the split, too."""
        self.masks += other.masks
        self.unlabelled += other.unlabelled
        self.turned += other.turned

    def remarks(self) -> list[str]:
        """A line on masks that may be turned against their images."""
        if not self.turned:
            return []
        return [
            f"{self.turned:,} images with a mask have an EXIF orientation, which is not applied: "
            "their masks must be of the pixels as they are stored"
        ]

    def fault(self, split: str) -> str | None:
        """What is wrong, if no pixel of any mask is labelled."""
        if not self.masks or self.unlabelled < self.masks:
            return None
        return (
            f"no pixel of the {self.masks} masks of the {split} split is labelled: all values are 0, which stands for "
            "unlabelled (class k is stored as k + 1)"
        )


def checked(
    image: bytes,
    mask: bytes | None,
    *,
    mask_classes: int,
    resize: int | None,
    count: MaskCount,
    sums: PixelSums | None = None,
) -> tuple[bytes, bytes | None]:
    """Return the encoded image and mask as they will be written. Raises ``DataError`` for what cannot be used.

    The mask is added to ``count``, the image as it will be read to ``sums``. With ``resize`` the shorter side becomes
    that long; what is not larger passes byte for byte, as everything does without ``resize``.
    """
    pixels = decode_rgb(image)
    height, width = pixels.shape[:2]
    if mask is not None:
        check_mask(image, mask, (width, height), mask_classes, count)
    if resize is None or min(width, height) <= resize:
        if sums is not None:
            sums.add(pixels)
        return image, mask
    size = _smaller(width, height, resize)
    picture = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY, subsampling="4:4:4")
    if sums is not None:
        sums.add(decode_rgb(buffer.getvalue()))
    return buffer.getvalue(), None if mask is None else _smaller_mask(mask, size)


def check_mask(image: bytes, mask: bytes, image_size: tuple[int, int], mask_classes: int, count: MaskCount) -> None:
    """Add a mask to ``count``.

    Raises ``DataError`` unless it fits its image, of (width, height), and holds no class above the last.
    """
    classes, turn = decode_mask(mask), orientation(image)
    height, width = classes.shape
    if (width, height) != image_size:
        sizes = f"the image is {image_size[0]}x{image_size[1]} pixels, its mask {width}x{height} pixels"
        raise DataError(sizes if turn == 1 else f"{sizes} (EXIF orientation {turn} is not applied)")
    largest = int((classes + np.uint8(1)).max())  # as stored, where 0 means unlabelled
    if largest > mask_classes:
        raise DataError(f"the mask holds the value {largest}, but there are {mask_classes} classes")
    count.merge(MaskCount(1, not is_labelled(classes), turn != 1))


def extension_of(image: bytes) -> str:
    """The extension by content, not by name: ImageNet has a PNG that is called .JPEG."""
    return "png" if image.startswith(b"\x89PNG") else "jpg"


def _smaller(width: int, height: int, shorter: int) -> tuple[int, int]:
    factor = shorter / min(width, height)
    return max(shorter, round(width * factor)), max(shorter, round(height * factor))


def _smaller_mask(mask: bytes, size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(mask)) as image:
        image.resize(size, Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass
class PixelSums:
    """Of grey levels 0..255: how many pixels there were, and per channel the sums of levels and of their squares."""

    pixels: int = 0
    levels: list[int] = field(default_factory=lambda: [0, 0, 0])
    squares: list[int] = field(default_factory=lambda: [0, 0, 0])

    def add(self, image: NDArray[np.uint8]) -> None:
        """Count an image [H, W, 3]."""
        counts = np.array(Image.fromarray(image).histogram(), dtype=np.int64).reshape(3, 256)
        self.merge(PixelSums(int(counts[0].sum()), (counts @ _LEVELS).tolist(), (counts @ _LEVELS**2).tolist()))

    def merge(self, other: PixelSums) -> None:
        """Count the images of another part, too."""
        self.pixels += other.pixels
        self.levels = [sum(pair) for pair in zip(self.levels, other.levels, strict=True)]
        self.squares = [sum(pair) for pair in zip(self.squares, other.squares, strict=True)]

    def as_json(self) -> dict[str, Any]:
        """The keys of ``_info.json``: ``mean`` and ``std`` of each channel in 0..1; none where nothing was counted."""
        if not self.pixels:
            return {}
        pairs = list(zip(self.levels, self.squares, strict=True))
        variances = [(self.pixels * square - level**2) / self.pixels**2 for level, square in pairs]
        return {
            "mean": [level / self.pixels / 255 for level in self.levels],
            "std": [math.sqrt(variance) / 255 for variance in variances],
        }


def total(parts: Iterable[PixelSums]) -> PixelSums:
    """The sums of several parts together."""
    sums = PixelSums()
    for part in parts:
        sums.merge(part)
    return sums


@dataclass(frozen=True)
class Measured:
    """The sums of one shard, and how many of its images could not be decoded."""

    sums: PixelSums
    bad: int


def measure(paths: Sequence[Path], workers: int | None, report: Report) -> Measured:
    """The sums of all images in shards, which are known to be undamaged. Raises ``DataError`` for one that is not."""
    parts = []
    for part in unordered(_measured, paths, workers):
        parts.append(part)
        report("shards measured", len(parts), len(paths))
    return Measured(total(part.sums for part in parts), sum(part.bad for part in parts))


def _measured(path: Path) -> Measured:
    sums, bad = PixelSums(), 0
    try:
        with path.open("rb") as file:
            for sample in scan(path).samples:
                file.seek(int(sample["image_offset"]))
                try:
                    sums.add(decode_rgb(file.read(int(sample["image_size"]))))
                except DataError:
                    bad += 1  # training skips them, too
    except OSError as error:
        raise DataError(f"shard '{path}' cannot be read: {error.strerror}") from None
    return Measured(sums, bad)


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
