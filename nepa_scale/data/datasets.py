"""torch data sets of the tasks, indexed by (epoch, index): an item depends on that alone. Bad samples are replaced."""
# ruff: noqa: NPY002 (timm's augmentations draw from numpy's global generator)

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, NamedTuple, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from nepa_scale.data.decode import IGNORE, BadImageError, Decoder, decode_mask
from nepa_scale.data.operations import applied
from nepa_scale.data.sampler import EpochIndex
from nepa_scale.data.sources import Contents, Sample, Source
from nepa_scale.data.transforms import Transform
from nepa_scale.utils.errors import DataError
from nepa_scale.utils.progress import logger

Item = TypeVar("Item")
TRIES = 8  # samples in a row that may be bad
LOGGED_EVERY = 1000


@contextmanager
def preserved_randomness() -> Iterator[None]:
    """Restore ``random``, ``numpy.random`` and torch's CPU generator afterwards.

    The generators of worker processes, and of training itself, are as if no sample had been drawn.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    torch_state = torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.default_generator.set_state(torch_state)


def seed_sample(seed: int, epoch: int, index: int) -> None:
    """Seed ``random``, ``numpy.random`` and torch's CPU generator for one sample."""
    digest = hashlib.blake2b(f"{seed},{epoch},{index}".encode(), digest_size=8).digest()
    sample_seed = int.from_bytes(digest, "little")
    random.seed(sample_seed)
    np.random.seed(sample_seed % 2**32)
    torch.default_generator.manual_seed(sample_seed)


class Samples(Dataset[Item], Generic[Item]):
    """A source, or a subset of it, with one augmentation for each (seed, epoch, sample of the source)."""

    def __init__(self, source: Contents, indices: NDArray[np.int64] | None, transform: Transform, seed: int) -> None:
        self.source, self.transform, self.seed = source, transform, seed
        self.indices = np.arange(len(source)) if indices is None else np.sort(indices)
        self.decode = Decoder()
        self._check()

    @property
    def shard_lengths(self) -> list[int]:
        """How many of the samples each file of the source holds."""
        lengths: list[int] = np.bincount(self._by_index.shard_of[self.indices]).tolist()
        return lengths

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, epoch_index: EpochIndex) -> Item:
        return self.__getitems__([epoch_index])[0]

    def __getitems__(self, epoch_indices: Sequence[EpochIndex]) -> list[Item]:
        """A batch of items, which saves the generators of this process once and not for each."""
        with preserved_randomness():
            return [self.draw(epoch_index) for epoch_index in epoch_indices]

    def draw(self, epoch_index: EpochIndex, *, instead: int = 0) -> Item:
        """The item at ``epoch_index``, or the one ``instead`` samples further on with the augmentation of this one.

        Draws from the global generators. Raises ``BadImageError`` for an image that cannot be decoded or
        transformed and ``DataError`` for anything else that is wrong, both naming file and sample.
        """
        epoch, position = epoch_index
        index = int(self.indices[(position + instead) % len(self)])
        source = self._by_index
        return self.item(source[index], epoch, int(self.indices[position]), lambda: source.where(index))

    def item(self, sample: Sample, epoch: int, number: int, where: Callable[[], str]) -> Item:
        """The item of ``sample`` with the augmentation of sample ``number`` of the source; ``where()`` names both.

        Draws and raises as ``draw`` does.
        """
        seed_sample(self.seed, epoch, number)
        try:
            return self._item(sample)
        except DataError as error:
            raise type(error)(f"{where()}: {error}") from None

    @property
    def _by_index(self) -> Source:
        """The source, which a stream's is not: its samples go through ``item`` alone."""
        return cast(Source, self.source)

    def _check(self) -> None:
        """Raise ``DataError`` where the source lacks what items need."""

    def _item(self, sample: Sample) -> Item:
        raise NotImplementedError


class PretrainImages(Samples[Tensor]):
    """Images [3, H, W] uint8. Labels are never looked at."""

    def _item(self, sample: Sample) -> Tensor:
        return applied(self.transform, self.decode(sample.image))


class LabelledImages(Samples[tuple[Tensor, int]]):
    """Images [3, H, W] float32 with their class. Raises ``DataError`` at once if one is not valid."""

    def _check(self) -> None:
        self.source.check_labels()

    def _item(self, sample: Sample) -> tuple[Tensor, int]:
        if sample.label is None:
            raise DataError("has no class label")
        if sample.label >= self.source.num_classes:
            raise DataError(f".cls must hold a class from 0 to {self.source.num_classes - 1}, not {sample.label}")
        return applied(self.transform, self.decode(sample.image)), sample.label


class MaskedImages(Samples[tuple[Tensor | tuple[Tensor, ...], Tensor]]):
    """Images [3, H, W] float32 with masks [H', W'] int64. Raises ``DataError`` at once if one is missing.

    A transform for evaluation gives each image in one or more sizes.
    """

    def _check(self) -> None:
        self.source.check_masks()

    def _item(self, sample: Sample) -> tuple[Tensor | tuple[Tensor, ...], Tensor]:
        if sample.mask is None:
            raise DataError("has no mask")
        image, mask = self.decode(sample.image), decode_mask(sample.mask)
        if mask.shape != image.shape[:2]:
            height, width = image.shape[:2]
            raise DataError(f"the image is {width}x{height} pixels, its mask {mask.shape[1]}x{mask.shape[0]}")
        highest = int(mask[mask != IGNORE].max(initial=0))
        if highest >= self.source.mask_classes:
            raise DataError(f"the mask holds the value {highest + 1}, above {self.source.mask_classes}, the last class")
        return applied(self.transform, image, mask)


class Loaded(NamedTuple):
    """A collated batch, and what was wrong with the images that were replaced in it, a line each."""

    batch: Any
    faults: list[str]


class BadSampleReplacer(Dataset[Any]):
    """A data set that returns batches and replaces a bad sample by the next good one.

    The replacement is a function of the sample alone, so every run, resumed or not, sees the same.
    """

    def __init__(self, dataset: Samples[Any], collate: Callable[[list[Any]], Any] = default_collate) -> None:
        self._dataset, self._collate = dataset, collate

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitems__(self, epoch_indices: Sequence[EpochIndex]) -> Loaded:
        """The batch of these samples. Raises ``DataError`` where ``TRIES`` samples in a row are bad."""
        faults: list[str] = []
        with preserved_randomness():
            items = [self._draw(epoch_index, faults) for epoch_index in epoch_indices]
        return Loaded(self._collate(items), faults)

    def _draw(self, epoch_index: EpochIndex, faults: list[str]) -> Any:
        return first_good(lambda instead: self._dataset.draw(epoch_index, instead=instead), faults)


def first_good(draw: Callable[[int], Any], faults: list[str]) -> Any:
    """The item ``draw(0)``, or the first good one of ``draw(1)``, ``draw(2)``, ...

    If the first is bad, ``faults`` gets the reason. Raises ``DataError`` where ``TRIES`` in a row are bad.
    """
    for instead in range(TRIES):
        try:
            return draw(instead)
        except BadImageError as error:
            if not instead:
                faults.append(str(error))
    raise DataError(f"{faults[-1]}, nor can the {TRIES - 1} samples after it")


class FaultLog:
    """Logs that images are replaced in this process, but not each time."""

    def __init__(self) -> None:
        self._total = 0

    def add(self, faults: Sequence[str]) -> None:
        """Log the first and every ``LOGGED_EVERY``-th fault."""
        for fault in faults:
            if self._total % LOGGED_EVERY == 0:
                logger.warning("replaced by the next image (%d so far): %s", self._total + 1, fault)
            self._total += 1


def allowed_faults(max_bad_fraction: float, num_images: int, epochs: int) -> int:
    """The number of images that may be replaced in ``epochs`` passes, the last one begun: at least one in each."""
    return epochs * max(1, int(max_bad_fraction * num_images))
