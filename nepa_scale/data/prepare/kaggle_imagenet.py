"""ImageNet-1k as Kaggle distributes it: ``ILSVRC/Data/CLS-LOC/{train,val}`` beside ``LOC_*`` files, folder or zip."""

from __future__ import annotations

import csv

from nepa_scale.data.prepare.references import Listing
from nepa_scale.data.prepare.tree import Tree
from nepa_scale.data.prepare.wnid_trees import WnidTree, first_words, list_wnid_tree
from nepa_scale.utils.errors import DataError

KAGGLE_IMAGES = "ILSVRC/Data/CLS-LOC"
_KAGGLE_TABLE = "LOC_val_solution.csv"
_KAGGLE_CLASSES = "LOC_synset_mapping.txt"


def list_kaggle_imagenet(tree: Tree) -> Listing:
    """List a tree that has ``ILSVRC/Data/CLS-LOC``; the unlabelled images of ``test/`` are counted, not read.

    Raises ``DataError`` with every problem, one per line.
    """
    if missing := [name for name in (_KAGGLE_TABLE, _KAGGLE_CLASSES) if name not in tree.files]:
        raise DataError("\n".join(f"'{tree.path(name)}' is missing: it lies beside ILSVRC/" for name in missing))
    classes = first_words(tree, _KAGGLE_CLASSES)
    return list_wnid_tree(WnidTree(tree, f"{KAGGLE_IMAGES}/train", f"{KAGGLE_IMAGES}/val", _KAGGLE_CLASSES, _KAGGLE_TABLE, classes, _kaggle_table(tree)))


def _kaggle_table(tree: Tree) -> dict[str, str]:
    """Read rows such as "ILSVRC2012_val_00048981,n03995372 85 1 499 272 n03995372 0 5 9 9": an image and its boxes."""
    rows = csv.reader(tree.text(_KAGGLE_TABLE).splitlines())
    header = next(rows, [])
    if header != ["ImageId", "PredictionString"]:
        raise DataError(f"'{tree.path(_KAGGLE_TABLE)}', line 1: expected ImageId,PredictionString")
    table: dict[str, str] = {}
    for row in rows:
        if not row:
            continue
        wnids = set(row[1].split()[::5]) if len(row) == 2 else set()
        if len(wnids) != 1 or f"{row[0]}.JPEG" in table:
            raise DataError(f"'{tree.path(_KAGGLE_TABLE)}', line {rows.line_num}: expected a new image and boxes of one class")
        table[f"{row[0]}.JPEG"] = wnids.pop()
    return table
