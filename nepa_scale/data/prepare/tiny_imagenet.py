"""Tiny ImageNet (Stanford CS231N) as a source: the tree ``tiny-imagenet-200``, or its zip file as it was downloaded."""

from __future__ import annotations

from pathlib import Path

from nepa_scale.data.prepare.references import Listing
from nepa_scale.data.prepare.tree import Tree, read_tree
from nepa_scale.data.prepare.wnid_trees import WnidTree, first_words, list_wnid_tree
from nepa_scale.utils.errors import DataError

_TINY_FOLDER = "tiny-imagenet-200"
_TINY_TABLE = "val/val_annotations.txt"
_TINY_CLASSES = "wnids.txt"


def list_tiny_imagenet(source: Path) -> Listing:
    """List ``train/<wnid>/images/``, ``val/images/`` with ``val/val_annotations.txt``, and ``wnids.txt``.

    The unlabelled images of ``test/`` are counted, not read. Raises ``DataError`` with every problem, one per line.
    """
    tree = read_tree(source)
    if _TINY_TABLE not in tree.files and _TINY_FOLDER in tree.folders:
        tree = tree.below(_TINY_FOLDER)
    if missing := [name for name in (_TINY_TABLE, _TINY_CLASSES) if name not in tree.files]:
        raise DataError("\n".join(f"'{tree.path(name)}' is missing" for name in missing))
    classes = first_words(tree, _TINY_CLASSES)
    return list_wnid_tree(WnidTree(tree, "train", "val/images", _TINY_CLASSES, _TINY_TABLE, classes, _tiny_table(tree)))


def _tiny_table(tree: Tree) -> dict[str, str]:
    """Read lines such as "val_0.JPEG <tab> n03444034 <tab> 0 <tab> 32 <tab> 44 <tab> 62", which end with a box."""
    table: dict[str, str] = {}
    for number, line in enumerate(tree.text(_TINY_TABLE).splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) < 2 or fields[0] in table:
            raise DataError(f"'{tree.path(_TINY_TABLE)}', line {number}: expected the name of a new image and its wnid")
        table[fields[0]] = fields[1]
    return table
