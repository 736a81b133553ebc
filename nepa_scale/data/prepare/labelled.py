"""From the names of images and of their classes to a listing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nepa_scale.data.prepare.mixing import mixed
from nepa_scale.data.prepare.references import Listing, numbered
from nepa_scale.data.prepare.tree import Tree
from nepa_scale.utils.errors import DataError

Labelled = list[tuple[str, str]]  # (name of a file in the tree, name of its class)


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
