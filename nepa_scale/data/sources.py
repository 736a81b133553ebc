"""Random access to the samples of a data set, whichever way it is laid out, as encoded bytes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nepa_scale.data import ade20k
from nepa_scale.data.info import DatasetInfo
from nepa_scale.data.layout import Layout, dataset_info, find_layout
from nepa_scale.data.shard_index import NO_LABEL, SAMPLE_TYPE, shard_index
from nepa_scale.errors import DataError


@dataclass(frozen=True)
class Sample:
    """One encoded sample. ``mask`` is a PNG of stored class numbers (0 = unlabelled, k = class k-1)."""

    key: str
    image: bytes
    label: int | None
    mask: bytes | None


class Source(Protocol):
    """The samples of one split, by index. Can be pickled and used from any number of processes."""

    num_classes: int
    mask_classes: int

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of every sample [N]; -1 where there is none."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def check_labels(self) -> None:
        """Raise ``DataError`` naming the first sample without a valid class."""

    def check_masks(self) -> None:
        """Raise ``DataError`` naming the first sample without a mask."""


def open_source(root: Path, name: str, split: str) -> Source:
    """Open ``split`` ("train" or "validation") of the data set ``root/name``.

    Raises ``DataError`` when the files are not what the data set says it holds.
    """
    info = dataset_info(root, name)
    folder = root / name
    if not folder.is_dir():
        raise DataError(f"'{folder}' has not been written yet")
    if find_layout(folder) is Layout.ADE20K:
        return AdeSource(ade20k.base_folder(folder) or folder, info, split)
    return ShardSource(folder, info, split)


class ShardSource:
    """WebDataset shards, read with one ``pread`` per member at the place the index says."""

    def __init__(self, folder: Path, info: DatasetInfo, split: str) -> None:
        contents = info.splits[split]
        self.num_classes = info.num_classes
        self.mask_classes = len(info.mask_class_names)
        self._paths = [folder / filename for filename in contents.filenames]
        keys, samples = [], []
        for path, expected in zip(self._paths, contents.shard_lengths, strict=True):
            if not path.is_file():
                raise DataError(f"shard '{path}' is missing")
            index = shard_index(path)
            if len(index.keys) != expected:
                raise DataError(
                    f"shard '{path}' must hold {expected} samples by _info.json, but {len(index.keys)} found"
                )
            keys.append(index.keys)
            samples.append(index.samples)
        self._keys = np.concatenate(keys)
        self._samples = np.concatenate(samples, dtype=SAMPLE_TYPE)
        self._shard_of = np.repeat(np.arange(len(self._paths)), contents.shard_lengths)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of every sample [N]; -1 where there is none."""
        return self._samples["label"]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        row = self._samples[index]
        path = self._paths[self._shard_of[index]]
        descriptor = os.open(path, os.O_RDONLY)
        try:
            image = _read(descriptor, path, int(row["image_offset"]), int(row["image_size"]))
            mask = _read(descriptor, path, int(row["mask_offset"]), int(row["mask_size"]))
        finally:
            os.close(descriptor)
        label = int(row["label"])
        return Sample(self._key(index), image, None if label == NO_LABEL else label, mask or None)

    def check_labels(self) -> None:
        """Raise ``DataError`` naming the first sample without a valid class."""
        bad = np.flatnonzero((self.labels < 0) | (self.labels >= self.num_classes))
        if bad.size:
            raise DataError(
                f"{self._where(bad[0])}: .cls must hold a class from 0 to {self.num_classes - 1} "
                f"({bad.size} of {len(self)} samples do not)"
            )

    def check_masks(self) -> None:
        """Raise ``DataError`` naming the first sample without a mask."""
        bad = np.flatnonzero(self._samples["mask_size"] == 0)
        if bad.size:
            raise DataError(f"{self._where(bad[0])}: no .seg.png ({bad.size} of {len(self)} samples have none)")

    def _key(self, index: int) -> str:
        return bytes(self._keys[index]).decode("utf-8", "replace")

    def _where(self, index: int) -> str:
        return f"shard '{self._paths[self._shard_of[index]]}', sample '{self._key(index)}'"


def _read(descriptor: int, path: Path, offset: int, size: int) -> bytes:
    content = os.pread(descriptor, size, offset)
    if len(content) != size:
        raise DataError(f"shard '{path}' became shorter while in use")
    return content


class AdeSource:
    """The ADE20K folder layout: photographs and masks paired by name, no image classes."""

    num_classes = 0

    def __init__(self, base: Path, info: DatasetInfo, split: str) -> None:
        if problems := ade20k.problems(base):
            raise DataError("\n".join(problems))
        self.mask_classes = len(info.mask_class_names)
        self._images = ade20k.images(base, split)
        self._masks = [ade20k.mask_of(base, split, image) for image in self._images]

    @property
    def labels(self) -> NDArray[np.int64]:
        """-1 for every sample [N]: ADE20K has no image classes."""
        return np.full(len(self), NO_LABEL)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        image = self._images[index]
        return Sample(image.stem, image.read_bytes(), None, self._masks[index].read_bytes())

    def check_labels(self) -> None:
        """Raise ``DataError``: there are no image classes."""
        raise DataError(f"'{self._images[0].parent}' holds no class labels")

    def check_masks(self) -> None:
        """Do nothing: every photograph was paired with its mask on opening."""
