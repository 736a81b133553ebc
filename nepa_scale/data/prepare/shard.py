"""One task of a worker: a list of references becomes one shard."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from nepa_scale.data.prepare.pixel_sums import PixelSums
from nepa_scale.data.prepare.pixels import MaskCount, checked, extension_of
from nepa_scale.data.prepare.reading import Reader, SourceError
from nepa_scale.data.prepare.references import Item
from nepa_scale.data.prepare.tar_writer import Members, write_tar
from nepa_scale.utils.errors import DataError


@dataclass(frozen=True)
class ShardTask:
    """What to write where."""

    path: Path
    items: list[Item]
    mask_classes: int
    resize: int | None
    skip_bad: bool
    measured: bool = False


@dataclass
class ShardResult:
    """A shard that was written; ``bad`` names the images that were left out, and why.

    ``masks`` counts masks, ``unlabelled`` those of them without a labelled pixel. ``sums`` are of its images, if it is
    to be ``measured``.
    """

    filename: str
    length: int = 0
    sha256: str = ""  # none where nothing was written
    bad: list[str] = field(default_factory=list)
    masks: int = 0
    unlabelled: int = 0
    sums: PixelSums = field(default_factory=PixelSums)


def write_shard(task: ShardTask) -> ShardResult:
    """Write a shard under a temporary name and rename it. One with a bad image is only written with ``skip_bad``.

    Raises ``DataError`` when the source cannot be read, ``OSError`` when the shard cannot be written.
    """
    result = ShardResult(task.path.name)
    temporary = task.path.with_name(f"{task.path.name}.{os.getpid()}.tmp")
    try:
        sha256 = write_tar(temporary, _samples(task, result))
        if result.length and (task.skip_bad or not result.bad):
            temporary.rename(task.path)
            result.sha256 = sha256
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    return result


def _samples(task: ShardTask, result: ShardResult) -> Iterator[Members]:
    count = MaskCount()
    with Reader() as reader:
        for item in task.items:
            try:
                image = reader.read(item.image)
                mask = None if item.mask is None else reader.read(item.mask)
                image, mask = checked(
                    image,
                    mask,
                    mask_classes=task.mask_classes,
                    resize=task.resize,
                    count=count,
                    sums=result.sums if task.measured else None,
                )
            except SourceError:
                raise
            except DataError as error:
                result.bad.append(f"{item.image.name!r}: {error}")
                continue
            result.length += 1
            result.masks, result.unlabelled = count.masks, count.unlabelled
            if task.skip_bad or not result.bad:  # otherwise the rest is only checked
                yield _sample(item, image, mask)


def _sample(item: Item, image: bytes, mask: bytes | None) -> Members:
    sample: dict[str, bytes | str] = {"__key__": item.key, extension_of(image): image}
    if item.label is not None:
        sample["cls"] = str(item.label)
    if mask is not None:
        sample["seg.png"] = mask
    return sample
