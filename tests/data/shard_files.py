"""Samples and shards as bytes, made with ``tarfile`` and PIL alone."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Files = Sequence[tuple[str, bytes]]


def encode(pixels: np.ndarray, image_format: str = "PNG") -> bytes:
    """Encode uint8 pixels [H, W] or [H, W, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=image_format)
    return buffer.getvalue()


def write_tar(path: Path, files: Files) -> None:
    """Write members in order."""
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def sample_files(split: str, index: int, *, classes: int, size: int = 24) -> list[tuple[str, bytes]]:
    """Image, class and mask of one sample: random pixels, a class in turn, mask values 0..3."""
    rng = np.random.default_rng([len(split), index])
    return [
        (f"{split}_{index:04d}.png", encode(rng.integers(256, size=(size, size, 3), dtype=np.uint8))),
        (f"{split}_{index:04d}.cls", str(index % classes).encode()),
        (f"{split}_{index:04d}.seg.png", encode(rng.integers(4, size=(size, size), dtype=np.uint8))),
    ]
