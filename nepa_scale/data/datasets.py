"""torch data sets of the three tasks, indexed by (epoch, index): an item depends on nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from nepa_scale.data.decode import IGNORE, Decoder, decode_mask
from nepa_scale.data.operations import applied
from nepa_scale.data.order import EpochIndex
from nepa_scale.data.sample_rng import preserved_randomness, seed_sample
from nepa_scale.data.sources import Contents, Sample, Source
from nepa_scale.data.transforms import ImageTransform, JointTransform, PyramidTransform
from nepa_scale.utils.errors import DataError

Item = TypeVar("Item")


class Samples(Dataset[Item], Generic[Item]):
    """A source, or a subset of it, with one augmentation for each (seed, epoch, sample of the source)."""

    def __init__(self, source: Contents, indices: NDArray[np.int64] | None, seed: int) -> None:
        self.source = source
        self.indices = np.arange(len(source)) if indices is None else np.sort(indices)
        self.seed = seed
        self.decode = Decoder()

    @property
    def shard_lengths(self) -> list[int]:
        """How many of the samples each file of the source holds."""
        lengths: list[int] = np.bincount(self._by_index.shard_of[self.indices]).tolist()
        return lengths

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: EpochIndex) -> Item:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[EpochIndex]) -> list[Item]:
        """A batch of items, which saves the generators of this process once and not for each."""
        with preserved_randomness():
            return [self.draw(place) for place in places]

    def draw(self, place: EpochIndex, *, instead: int = 0) -> Item:
        """The item at a place, or the one ``instead`` samples further on with this place's augmentation.

        Draws from the global generators. Raises ``BadImageError`` for an image that cannot be decoded or
        transformed and ``DataError`` for anything else that is wrong, both naming file and sample.
        """
        epoch, position = place
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

    def _item(self, sample: Sample) -> Item:
        raise NotImplementedError


class PretrainImages(Samples[Tensor]):
    """Images [3, H, W] uint8. Labels are never looked at."""

    def __init__(
        self, source: Contents, indices: NDArray[np.int64] | None, transform: ImageTransform, seed: int
    ) -> None:
        super().__init__(source, indices, seed)
        self.transform = transform

    def _item(self, sample: Sample) -> Tensor:
        return applied(self.transform, self.decode(sample.image))


class LabelledImages(Samples[tuple[Tensor, int]]):
    """Images [3, H, W] float32 with their class. Raises ``DataError`` at once if one is not valid."""

    def __init__(
        self, source: Contents, indices: NDArray[np.int64] | None, transform: ImageTransform, seed: int
    ) -> None:
        super().__init__(source, indices, seed)
        source.check_labels()
        self.transform = transform

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

    def __init__(
        self,
        source: Contents,
        indices: NDArray[np.int64] | None,
        transform: JointTransform | PyramidTransform,
        seed: int,
    ) -> None:
        super().__init__(source, indices, seed)
        source.check_masks()
        self.transform = transform

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
