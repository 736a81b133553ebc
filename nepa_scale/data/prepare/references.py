"""What a source holds, as cheap references: where the bytes of every sample lie."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from nepa_scale.data.prepare.left_out import LeftOut


class Span(NamedTuple):
    """Bytes of a file: a whole image file, or a member of a tar archive."""

    path: str
    offset: int
    size: int
    name: str  # for messages, relative to the source


class ZipEntry(NamedTuple):
    """A member of a zip archive."""

    path: str
    name: str
    size: int


class ParquetColumn(NamedTuple):
    """A parquet file, and its column of encoded images by its path in the schema."""

    path: str
    column: str


class ParquetRow(NamedTuple):
    """The image of one row of a parquet file."""

    place: ParquetColumn
    group: int
    row: int  # within its row group
    file_size: int
    name: str

    @property
    def path(self) -> str:
        """The file."""
        return self.place.path


Reference = Span | ZipEntry | ParquetRow


class Item(NamedTuple):
    """One sample to be written."""

    key: str
    image: Reference
    label: int | None = None
    mask: Reference | None = None


@dataclass(frozen=True)
class Listing:
    """A source as it will be written: for each split its samples in order."""

    splits: dict[str, list[Item]]
    class_names: Sequence[str] = ()
    mask_class_names: Sequence[str] = ()
    left_out: LeftOut = field(default_factory=LeftOut)
    remarks: Sequence[str] = ()  # what else the user is told

    def fingerprint(self) -> str:
        """A digest of every name, size, place and class; not of the folder the source lies in."""
        digest = hashlib.sha256(repr((list(self.class_names), list(self.mask_class_names))).encode())
        for split, items in self.splits.items():
            digest.update(f"\n{split}\n".encode())
            for key, image, label, mask in items:
                digest.update(f"{key!r} {label} {image[1:]} {mask and mask[1:]}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def numbered(split: str, images: Sequence[tuple[Reference, int]]) -> list[Item]:
    """Give labelled images the keys ``train_00000000`` and so on."""
    return [Item(f"{split}_{index:08d}", image, label) for index, (image, label) in enumerate(images)]
