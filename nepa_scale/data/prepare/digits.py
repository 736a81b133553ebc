"""The embedded data set: scenes of one to four handwritten digits, to use without a download.

The digits are scikit-learn's ``load_digits``: 1,797 real images of 8x8 pixels, from UCI's Optical Recognition
of Handwritten Digits. The largest digit of a scene, clearly larger than the others, is its class; the mask
gives every pixel its digit.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nepa_scale.data.info import IMAGE_SIZE, NUM_TRAIN, NUM_VALIDATION, SHARD_SIZE, SPLITS, embedded_content
from nepa_scale.data.prepare.finishing import is_written, write_dataset
from nepa_scale.data.shard_index import Members
from nepa_scale.utils.progress import Report

BACKGROUND = 1  # stored masks: 0 would mean unlabelled, digit d is d + 2

_VALIDATION_SHARE = 5  # one glyph in five is kept for validation
_LARGEST = (0.62, 0.78)  # box of the digit that names the scene, as a share of the image
_SMALLER = (0.42, 0.62)  # boxes of the others, as a share of the largest
_MAX_OVERLAP = 0.35  # of the smaller box, whose outer tenth on each side is empty
_MAX_TILT = 6.0  # degrees
_TRIES = 12
_CONTRAST = (120.0, 160.0)  # grey levels by which a digit is lighter than its surroundings
_TINT = 20.0  # grey levels by which its colour channels differ
_CHUNK = 64  # scenes drawn from one random stream


@dataclass(frozen=True)
class Glyphs:
    """Handwritten digits, images of 8x8 grey pixels with an empty border around, grouped: ``of_digit[d]``."""

    of_digit: list[list[Image.Image]]


def split_glyphs() -> dict[str, Glyphs]:
    """Divide the digits between training and validation: no glyph is in both."""
    from sklearn.datasets import load_digits  # here, because it is slow to import

    bunch = load_digits()
    pixels = np.rint(np.pad(bunch.images, ((0, 0), (1, 1), (1, 1))) * (255 / 16)).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(pixels))
    cut = len(order) // _VALIDATION_SHARE
    parts = {"train": order[cut:], "validation": order[:cut]}
    return {split: _grouped(pixels[part], bunch.target[part]) for split, part in parts.items()}


def _grouped(pixels: NDArray[np.uint8], digits: NDArray[np.int64]) -> Glyphs:
    return Glyphs([[Image.fromarray(glyph) for glyph in pixels[digits == digit]] for digit in range(10)])


@dataclass(frozen=True)
class Box:
    """Where a digit stands: a square of ``size`` pixels with its corner at (top, left)."""

    digit: int
    size: int
    top: int
    left: int

    @property
    def pixels(self) -> tuple[slice, slice]:
        """The rows and columns it covers."""
        return slice(self.top, self.top + self.size), slice(self.left, self.left + self.size)

    def overlaps(self, other: Box) -> bool:
        """Tell whether the two share more than ``_MAX_OVERLAP`` of the smaller one."""
        height = min(self.top + self.size, other.top + other.size) - max(self.top, other.top)
        width = min(self.left + self.size, other.left + other.size) - max(self.left, other.left)
        return height > 0 and width > 0 and height * width > _MAX_OVERLAP * min(self.size, other.size) ** 2


def arrange(digit: int, image_size: int, rng: Random) -> list[Box]:
    """Place ``digit`` and up to three smaller ones without much overlap; the largest comes last, on top."""
    largest = image_size * rng.uniform(*_LARGEST)
    boxes = [_place(digit, round(largest), image_size, rng, spread=0.4)]
    for _ in range(rng.randrange(4)):
        other, size = rng.randrange(10), round(largest * rng.uniform(*_SMALLER))
        tries = (_place(other, size, image_size, rng) for _ in range(_TRIES))
        free = next((new for new in tries if not any(new.overlaps(old) for old in boxes)), None)
        if free:
            boxes.append(free)
    return boxes[::-1]


def _place(digit: int, size: int, image_size: int, rng: Random, *, spread: float = 1.0) -> Box:
    """A box anywhere in the middle ``spread`` of the places that the image has room for."""
    room = image_size - size
    margin = room * (1 - spread) / 2
    top, left = (round(rng.uniform(margin, room - margin)) for _ in range(2))
    return Box(digit, size, top, left)


def draw_scene(digit: int, glyphs: Glyphs, canvas: NDArray[np.float32], rng: Random) -> NDArray[np.uint8]:
    """Draw a scene whose largest digit is ``digit`` onto ``canvas`` [S, S, 3]; return its mask [S, S]."""
    mask = np.full(canvas.shape[:2], BACKGROUND, dtype=np.uint8)
    for box in arrange(digit, len(canvas), rng):
        coverage = render(rng.choice(glyphs.of_digit[box.digit]), box.size, rng.uniform(-_MAX_TILT, _MAX_TILT))
        patch = canvas[box.pixels]
        patch += coverage[..., None] * (contrasting_colour(float(patch.mean()), rng) - patch)
        mask[box.pixels][coverage >= 0.5] = box.digit + 2
    return mask


def render(glyph: Image.Image, size: int, tilt: float) -> NDArray[np.float32]:
    """Enlarge a glyph to ``size`` pixels, turned by ``tilt`` degrees: its coverage [size, size] in 0..1."""
    scale = glyph.width / size
    cosine, sine = math.cos(math.radians(tilt)) * scale, math.sin(math.radians(tilt)) * scale
    middle, centre = glyph.width / 2, size / 2
    affine = (
        cosine,
        sine,
        middle - (cosine + sine) * centre,
        -sine,
        cosine,
        middle + (sine - cosine) * centre,
    )
    drawn = glyph.transform((size, size), Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC)
    return np.asarray(drawn) * np.float32(1 / 255)


def contrasting_colour(surroundings: float, rng: Random) -> NDArray[np.float32]:
    """Choose a colour [3] lighter than the grey level around it by one of ``_CONTRAST``."""
    level = surroundings + rng.uniform(*_CONTRAST)
    tint = [rng.uniform(-_TINT, _TINT) for _ in range(3)]
    return np.array([level + part - sum(tint) / 3 for part in tint], dtype=np.float32)


def backgrounds(count: int, image_size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw colour gradients with soft blotches: [N, S, S, 3] in grey levels."""
    corners = rng.uniform(20, 90, (count, 1, 1, 3)) + rng.uniform(-12, 12, (count, 2, 2, 3))
    blotches = rng.normal(size=(count, 8, 8, 3)) * rng.uniform(1, 6, (count, 1, 1, 1))
    return _enlarge(corners, image_size) + _enlarge(blotches, image_size)


def _enlarge(values: NDArray[np.float64], size: int) -> NDArray[np.float32]:
    """Interpolate [N, h, h, 3] to [N, S, S, 3]."""
    height = values.shape[1]
    places = np.linspace(0, height - 1, size)
    weights = np.maximum(0, 1 - abs(places[:, None] - np.arange(height))).astype(np.float32)
    return np.asarray(np.einsum("yi,xj,nijc->nyxc", weights, weights, values, optimize=True), dtype=np.float32)


def scenes(split: str, count: int, glyphs: Glyphs, image_size: int, seed: int) -> Iterator[Members]:
    """Yield ``count`` encoded scenes, the classes in turn. Fewer scenes are the first of more."""
    for start in range(0, count, _CHUNK):
        images = backgrounds(_CHUNK, image_size, np.random.default_rng([seed, SPLITS.index(split), start]))
        rng = Random(f"{seed} {split} {start}")
        masks = [draw_scene(index % 10, glyphs, image, rng) for index, image in enumerate(images, start)]
        pairs = zip(np.clip(images, 0, 255).astype(np.uint8), masks, strict=True)
        for index, (image, mask) in enumerate(islice(pairs, count - start), start):
            yield {
                "__key__": f"{split}_{index:08d}",
                "png": encode_png(image),
                "cls": str(index % 10).encode(),
                "seg.png": encode_png(mask),
            }


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode [H, W] or [H, W, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1, compress_type=zlib.Z_HUFFMAN_ONLY)
    return buffer.getvalue()


def write_digits(
    root: Path,
    *,
    num_train: int = NUM_TRAIN,
    num_validation: int = NUM_VALIDATION,
    image_size: int = IMAGE_SIZE,
    seed: int = 0,
    shard_size: int = SHARD_SIZE,
    report: Report | None = None,
) -> bool:
    """Write ``root/digits`` unless it is there; return whether anything was written.

    Several processes may call this at once. Raises ``DataError`` when ``root/digits`` is something else, or
    cannot be written.
    """
    sizes = {"train": num_train, "validation": num_validation}
    info = embedded_content(
        num_train=num_train,
        num_validation=num_validation,
        image_size=image_size,
        seed=seed,
        shard_size=shard_size,
    )
    if is_written(root / info["name"], info):
        return False
    glyphs = split_glyphs()
    samples = {split: scenes(split, count, glyphs[split], image_size, seed) for split, count in sizes.items()}
    return write_dataset(root, info, samples, report)
