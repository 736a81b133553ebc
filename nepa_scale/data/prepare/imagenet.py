"""ImageNet-1k as a source: the official archives of ILSVRC2012, which are read in place."""

from __future__ import annotations

import re
from pathlib import Path

from nepa_scale.data.prepare.class_folders import TRAIN_NAMES, list_class_tree, split_folder
from nepa_scale.data.prepare.devkit import KIT, read_devkit
from nepa_scale.data.prepare.kaggle_imagenet import KAGGLE_IMAGES, list_kaggle_imagenet
from nepa_scale.data.prepare.left_out import LeftOut
from nepa_scale.data.prepare.mixing import mixed
from nepa_scale.data.prepare.references import Item, Listing, Span
from nepa_scale.data.prepare.tar_walk import is_plain, walk
from nepa_scale.data.prepare.tree import Tree, read_tree
from nepa_scale.utils.errors import DataError, shortened

TRAIN, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
_CLASS = re.compile(r"(n\d{8})\.tar")
_TRAIN_IMAGE = re.compile(r"(?:n\d{8}/)?(n\d{8}_\d+)\.JPEG")
_VALIDATION_IMAGE = re.compile(r"(?:val/)?(ILSVRC2012_val_(\d{8}))\.JPEG")


def list_imagenet(source: Path) -> Listing:
    """List the archives in ``source``, Kaggle's tree, or the class folders train/ and val/ made from the archives.

    A class's number is the rank of its wnid. Raises ``DataError`` with what is missing or not as published.
    """
    archives = (TRAIN, VALIDATION, KIT)
    missing = [name for name in archives if not (source / name).is_file()]
    if len(missing) == len(archives) and source.exists():
        return _list_extracted(read_tree(source), missing)
    if missing:
        raise DataError(_complaint(source, missing))
    kit = read_devkit(source / KIT)
    ranks = {wnid: rank for rank, wnid in enumerate(kit.classes)}
    train = mixed(_train_items(source / TRAIN, ranks))
    validation = _validation_items(source / VALIDATION, [ranks[wnid] for wnid in kit.validation])
    left_out = LeftOut()
    left_out.add_unread(sorted(path.name for path in source.iterdir()), archives)
    return Listing({"train": train, "validation": validation}, class_names=kit.classes, left_out=left_out)


def _list_extracted(tree: Tree, missing: list[str]) -> Listing:
    holders = [folder for folder in ("", *tree.folders_in()) if f"{folder}/{KAGGLE_IMAGES}".lstrip("/") in tree.folders]
    if holders:
        return list_kaggle_imagenet(tree.below(holders[0]))
    if split_folder(tree, TRAIN_NAMES):
        return list_class_tree(tree)
    raise DataError(_complaint(tree.source, missing))


def _complaint(source: Path, missing: list[str]) -> str:
    return "\n".join(f"'{source / name}' is missing" for name in missing)


def _train_items(path: Path, ranks: dict[str, int]) -> list[Item]:
    items: dict[str, Item] = {}
    seen = set()
    with path.open("rb") as file:
        for inner in walk(file, str(path)):
            match = _CLASS.fullmatch(inner.name)
            if not match or not is_plain(inner) or match[1] not in ranks:
                raise DataError(f"'{path}' holds {inner.name!r:.100}, which is no archive of a class in {KIT}")
            seen.add(match[1])
            where = f"{path}: {inner.name}"
            for member in walk(file, where, start=inner.offset_data, size=inner.size):
                name = _TRAIN_IMAGE.fullmatch(member.name)
                if not name or not is_plain(member) or name[1] in items:
                    raise DataError(f"'{where}' holds {member.name!r:.100}, which is no new image nXXXXXXXX_N.JPEG")
                span = Span(str(path), inner.offset_data + member.offset_data, member.size, f"{TRAIN}: {member.name}")
                items[name[1]] = Item(name[1], span, ranks[match[1]])
    if absent := sorted(set(ranks) - seen):
        raise DataError(f"'{path}' lacks {len(absent)} of {len(ranks)} classes: {shortened(absent)}")
    return list(items.values())


def _validation_items(path: Path, labels: list[int]) -> list[Item]:
    items: dict[int, Item] = {}
    with path.open("rb") as file:
        for member in walk(file, str(path)):
            name = _VALIDATION_IMAGE.fullmatch(member.name)
            number = int(name[2]) if name else 0
            if member.isdir():
                continue
            if not name or not is_plain(member) or not 1 <= number <= len(labels) or number in items:
                raise DataError(
                    f"'{path}' holds {member.name!r:.100}, which is no new image ILSVRC2012_val_N.JPEG "
                    f"with N up to {len(labels)}"
                )
            span = Span(str(path), member.offset_data, member.size, f"{VALIDATION}: {member.name}")
            items[number] = Item(name[1], span, labels[number - 1])
    if len(items) != len(labels):
        raise DataError(f"'{path}' has {len(items)} images, but {KIT} has the classes of {len(labels)}")
    return [items[number] for number in sorted(items)]
