"""Random access to the samples of a data set, whichever way it is laid out, as encoded bytes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nepa_scale.data import ade20k
from nepa_scale.data.decode import decode_mask, is_labelled
from nepa_scale.data.file_io import RetryingReader, read_with_retries
from nepa_scale.data.index import ensure_index
from nepa_scale.data.info import DatasetInfo, folder_of
from nepa_scale.data.layout import Layout, dataset_info, find_layout
from nepa_scale.data.shard_index import NO_LABEL, printable
from nepa_scale.utils.errors import DataError, shortened

if TYPE_CHECKING:
    from nepa_scale.data.shard_stream import StreamSource


@dataclass(frozen=True)
class Sample:
    """One encoded sample. ``mask`` is a PNG of stored class numbers (0 = unlabelled, k = class k-1)."""

    key: str
    image: bytes
    label: int | None
    mask: bytes | None


#: The samples of one split, by index. It can be pickled and used from any number of processes.
Source: TypeAlias = "ShardSource | AdeSource"
#: A ``Source``, or a stream, which can only be read from beginning to end.
Contents: TypeAlias = "ShardSource | AdeSource | StreamSource"


def open_source(root: Path, name: str, split: str) -> Source:
    """Open ``split`` ("train" or "validation") of the data set ``root/name``.

    Raises ``DataError`` when the files are not what the data set says it holds.
    """
    info = dataset_info(root, name)
    folder = folder_of(root, name)
    if info.url is not None:
        raise DataError(f"the shards of '{name}' lie at {info.url}: they can only be read with data.streaming=true")
    if not folder.is_dir():
        raise DataError(f"'{folder}' has not been written yet")
    if find_layout(folder) is Layout.ADE20K:
        return AdeSource(ade20k.base_folder(folder) or folder, info, split)
    return ShardSource(folder, info, split)


class ShardSource:
    """WebDataset shards, read with one ``pread`` per member at the place the index says.

    Of every sample [N]: ``labels``, its class, -1 where there is none; ``keys``, its name in UTF-8, with the folder in
    the archive, without extension; ``shard_of``, the number of its shard.
    """

    def __init__(self, folder: Path, info: DatasetInfo, split: str) -> None:
        contents = info.splits[split]
        self.num_classes = info.num_classes
        self.mask_classes = len(info.mask_class_names)
        index = ensure_index(folder, info)[split]
        self.keys, self._samples = index.keys, index.samples
        self.labels: NDArray[np.int64] = index.samples["label"]
        self._paths = [folder / filename for filename in contents.filenames]
        self.shard_of = np.repeat(np.arange(len(self._paths)), index.lengths)
        self._files = RetryingReader()

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        image_offset, image_size, mask_offset, mask_size, label = self._samples[index].tolist()
        path = self._paths[self.shard_of[index]]
        image = self._files.read(path, image_offset, image_size)
        mask = self._files.read(path, mask_offset, mask_size) if mask_size else None
        return Sample(self._key(index), image, None if label == NO_LABEL else label, mask)

    def where(self, index: int | np.integer[Any]) -> str:
        """The shard and the name of a sample."""
        return f"shard '{self._paths[self.shard_of[index]]}', sample '{printable(self._key(index))}'"

    def check_labels(self) -> None:
        """Raise ``DataError`` naming the first sample without a valid class."""
        bad = np.flatnonzero((self.labels < 0) | (self.labels >= self.num_classes))
        if bad.size:
            raise DataError(
                f"{self.where(bad[0])}: .cls must hold a class from 0 to {self.num_classes - 1} "
                f"({bad.size} of {len(self)} samples do not)"
            )

    def check_masks(self) -> None:
        """Raise ``DataError`` naming samples without a mask, or where no mask has a labelled pixel."""
        bad = np.flatnonzero(self._samples["mask_size"] == 0)
        if bad.size:
            others = shortened([f"'{printable(self._key(index))}'" for index in bad])
            raise DataError(
                f"{self.where(bad[0])}: no .seg.png ({bad.size} of {len(self)} samples have none: {others})"
            )
        _check_labelled(self)

    def _key(self, index: int | np.integer[Any]) -> str:
        return bytes(self.keys[index]).decode("utf-8", "replace")


class AdeSource:
    """The ADE20K folder layout: photographs and masks paired by name, no image classes.

    ``labels``, ``keys`` and ``shard_of`` [N] as of ``ShardSource``: -1, the names, and 0, as each is a file of its own.
    """

    num_classes = 0

    def __init__(self, base: Path, info: DatasetInfo, split: str) -> None:
        if problems := ade20k.problems(base):
            raise DataError("\n".join(problems))
        self.mask_classes = len(info.mask_class_names)
        self._images = ade20k.images(base, split)
        self._masks = [ade20k.mask_of(base, split, image) for image in self._images]
        self.labels = np.full(len(self), NO_LABEL)
        self.keys = np.array([image.stem.encode("utf-8", "surrogateescape") for image in self._images])
        self.shard_of = np.zeros(len(self), dtype=np.int64)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        image = self._images[index]
        return Sample(image.stem, read_with_retries(image), None, read_with_retries(self._masks[index]))

    def where(self, index: int) -> str:
        """The photograph and its mask."""
        return f"'{self._images[index]}' with mask '{self._masks[index]}'"

    def check_labels(self) -> None:
        """Raise ``DataError``: there are no image classes."""
        raise DataError(f"'{self._images[0].parent}' holds no class labels")

    def check_masks(self) -> None:
        """Raise ``DataError`` where no mask has a labelled pixel: all were found on opening."""
        _check_labelled(self)


def _check_labelled(source: Source) -> None:
    """Look for a mask with a labelled pixel, which is the first nearly always, and raise ``DataError`` without one."""
    for index in range(len(source)):
        mask = source[index].mask
        with suppress(DataError):  # a mask that cannot be decoded is reported when its sample is read
            if mask is None or is_labelled(decode_mask(mask)):
                return
    raise DataError(
        f"no pixel of {len(source)} masks is labelled, from {source.where(0)} on: all values are 0, which stands for "
        "unlabelled (class k is stored as k + 1)"
    )
