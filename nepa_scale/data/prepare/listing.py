"""A source as it will be written: its samples by split, numbered; training samples mixed, validation ones held out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np

from nepa_scale.data.prepare.references import LeftOut, Reference
from nepa_scale.data.prepare.tree import Tree
from nepa_scale.utils.errors import DataError

Labelled = list[tuple[str, str]]  # (name of a file in the tree, name of its class)
Thing = TypeVar("Thing")


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
        """A digest of every name, size, position and class; not of the folder the source lies in."""
        digest = hashlib.sha256(repr((list(self.class_names), list(self.mask_class_names))).encode())
        for split, items in self.splits.items():
            digest.update(f"\n{split}\n".encode())
            for key, image, label, mask in items:
                digest.update(f"{key!r} {label} {image[1:]} {mask and mask[1:]}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def numbered(split: str, images: Sequence[tuple[Reference, int]]) -> list[Item]:
    """Give labelled images the keys ``train_00000000`` and so on."""
    return [Item(f"{split}_{index:08d}", image, label) for index, (image, label) in enumerate(images)]


def labelled_listing(
    tree: Tree,
    classes: Sequence[str],
    images: Mapping[str, Labelled],
    problems: Sequence[str],
    remarks: Sequence[str] = (),
) -> Listing:
    """The images of each split, numbered, with the rank of their class in ``classes``; training images are mixed.

    All other files of the tree count as not read. Raises ``DataError`` if there are ``problems``, one per line.
    """
    tree.read(name for found in images.values() for name, _ in found)
    if problems:
        raise DataError("\n".join([*problems, *tree.left_out.lines()]))
    ranks = {name: rank for rank, name in enumerate(classes)}
    splits = {split: [(tree.reference(name), ranks[label]) for name, label in found] for split, found in images.items()}
    splits["train"] = mixed(splits["train"])
    return Listing(
        {split: numbered(split, found) for split, found in splits.items()},
        class_names=classes,
        left_out=tree.left_out,
        remarks=remarks,
    )


def mixed(things: Sequence[Thing]) -> list[Thing]:
    """The same things in an order that depends on their number only, so that a stream of shards meets all classes."""
    return [things[index] for index in np.random.default_rng(0).permutation(len(things))]


def held_out(labels: Sequence[int], fraction: float) -> set[int]:
    """Choose the images to validate with, by their index.

    Of every class the nearest whole number to ``fraction`` of its images is chosen, at least one and never all; a class
    of one image keeps it. The choice depends on the labels alone, and a larger fraction includes a smaller one's.
    """
    classes = np.asarray(labels, dtype=np.int64)
    chosen: set[int] = set()
    for label in np.unique(classes).tolist():
        members = np.flatnonzero(classes == label)
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        shuffled = np.random.default_rng([0, label]).permutation(members)
        chosen.update(shuffled[:count].tolist())
    return chosen
