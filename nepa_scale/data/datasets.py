"""torch data sets of the three tasks, indexed by (epoch, index): an item depends on nothing else."""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from nepa_scale.data.sample_rng import sample_randomness
from nepa_scale.data.sources import Sample, Source
from nepa_scale.data.transforms import (
    IGNORE,
    ImageTransform,
    JointTransform,
    PyramidTransform,
    decode_mask,
    decode_rgb,
)
from nepa_scale.errors import DataError

Item = TypeVar("Item")
Place = tuple[int, int]


class _Samples(Dataset[Item], Generic[Item]):
    """A source, or a subset of it, with one augmentation for each (seed, epoch, sample of the source)."""

    def __init__(self, source: Source, indices: NDArray[np.int64] | None, seed: int) -> None:
        self.source = source
        self.indices = np.arange(len(source)) if indices is None else indices
        self.seed = seed

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: Place) -> Item:
        epoch, position = place
        index = int(self.indices[position])
        sample = self.source[index]
        try:
            with sample_randomness(self.seed, epoch, index):
                return self._item(sample)
        except DataError as error:
            raise DataError(f"sample '{sample.key}': {error}") from None

    def _item(self, sample: Sample) -> Item:
        raise NotImplementedError


class PretrainImages(_Samples[Tensor]):
    """Images [3, H, W] float32. Labels are never looked at."""

    def __init__(self, source: Source, indices: NDArray[np.int64] | None, transform: ImageTransform, seed: int) -> None:
        super().__init__(source, indices, seed)
        self.transform = transform

    def _item(self, sample: Sample) -> Tensor:
        return self.transform(decode_rgb(sample.image))


class LabelledImages(_Samples[tuple[Tensor, int]]):
    """Images [3, H, W] float32 with their class. Raises ``DataError`` at once if one is not valid."""

    def __init__(self, source: Source, indices: NDArray[np.int64] | None, transform: ImageTransform, seed: int) -> None:
        super().__init__(source, indices, seed)
        source.check_labels()
        self.transform = transform

    def _item(self, sample: Sample) -> tuple[Tensor, int]:
        if sample.label is None:
            raise DataError("has no class label")
        return self.transform(decode_rgb(sample.image)), sample.label


class MaskedImages(_Samples[tuple[Tensor | tuple[Tensor, ...], Tensor]]):
    """Images [3, H, W] float32 with masks [H', W'] int64. Raises ``DataError`` at once if one is missing.

    A transform for evaluation gives each image in one or more sizes.
    """

    def __init__(
        self,
        source: Source,
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
        image, mask = decode_rgb(sample.image), decode_mask(sample.mask)
        if mask.shape != (image.height, image.width):
            size = f"{image.width}x{image.height}"
            raise DataError(f"the image is {size} pixels, its mask {mask.shape[1]}x{mask.shape[0]}")
        highest = int(mask[mask != IGNORE].max(initial=0))
        if highest >= self.source.mask_classes:
            raise DataError(f"the mask holds the value {highest + 1}, above {self.source.mask_classes}, the last class")
        return self.transform(image, mask)
