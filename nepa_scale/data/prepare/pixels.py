"""Pixels of images and masks: whether they can be used, in a smaller size, and their mean and standard deviation.

Mean and deviation come from sums of whole numbers, which are exact in any order.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nepa_scale.data.decode import decode_mask, decode_rgb, is_labelled
from nepa_scale.data.shard_index import scan
from nepa_scale.distributed.signals import unordered
from nepa_scale.utils.errors import DataError
from nepa_scale.utils.progress import Report

_QUALITY = 95  # with full colour resolution: a second compression that is hard to see
_LEVELS = np.arange(256, dtype=np.int64)


@dataclass
class MaskCount:
    """The masks of a split, and how many of them have no labelled pixel."""

    masks: int = 0
    unlabelled: int = 0

    def add(self, *, labelled: bool) -> None:
        """Count a mask."""
        self.masks += 1
        self.unlabelled += not labelled

    def merge(self, other: MaskCount) -> None:
        """Count those of another part of the split, too."""
        self.masks += other.masks
        self.unlabelled += other.unlabelled

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
        count.add(labelled=check_mask(mask, (width, height), mask_classes))
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


def check_mask(mask: bytes, image_size: tuple[int, int], mask_classes: int) -> bool:
    """Whether any pixel of a mask is labelled.

    Raises ``DataError`` unless it fits an image of (width, height) and holds no class above the last.
    """
    classes = decode_mask(mask)
    height, width = classes.shape
    if (width, height) != image_size:
        raise DataError(f"the image is {image_size[0]}x{image_size[1]} pixels, its mask {width}x{height} pixels")
    largest = int((classes + np.uint8(1)).max())  # as stored, where 0 means unlabelled
    if largest > mask_classes:
        raise DataError(f"the mask holds the value {largest}, but there are {mask_classes} classes")
    return is_labelled(classes)


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
