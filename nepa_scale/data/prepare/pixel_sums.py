"""Mean and standard deviation of the pixels of images, per channel: sums of whole numbers, so exact in any order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nepa_scale.data.decode import decode_rgb
from nepa_scale.data.pool import unordered
from nepa_scale.data.reporting import Report
from nepa_scale.data.shard_index import scan
from nepa_scale.utils.errors import DataError

_LEVELS = np.arange(256, dtype=np.int64)


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
        self.levels = [mine + theirs for mine, theirs in zip(self.levels, other.levels, strict=True)]
        self.squares = [mine + theirs for mine, theirs in zip(self.squares, other.squares, strict=True)]

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
    whole = PixelSums()
    for part in parts:
        whole.merge(part)
    return whole


@dataclass(frozen=True)
class Measured:
    """The sums of one shard, and how many of its images could not be decoded."""

    sums: PixelSums
    bad: int


def measure(paths: Sequence[Path], workers: int | None, report: Report) -> Measured:
    """The sums of all images in shards, which are known to be whole. Raises ``DataError`` for one that is not."""
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
                    bad += 1  # as training has it, which passes over them
    except OSError as error:
        raise DataError(f"shard '{path}' cannot be read: {error.strerror}") from None
    return Measured(sums, bad)
