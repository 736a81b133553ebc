"""ImageNet as a source: the official archives of ILSVRC2012 (read in place), Kaggle's tree, and Tiny ImageNet.

Kaggle distributes ``ILSVRC/Data/CLS-LOC/{train,val}`` beside ``LOC_*`` files; Tiny ImageNet (Stanford CS231N) is the
folder ``tiny-imagenet-200``. Both may be zip files, and both keep all validation images in one folder, with a table of
their classes. A class's number is the rank of its wnid.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from nepa_scale.data.decode import first_line
from nepa_scale.data.file_io import decode_text, is_image
from nepa_scale.data.prepare.class_folders import (
    TRAIN_NAMES,
    class_folder_problems,
    in_class_folders,
    list_class_folders,
    split_folder,
)
from nepa_scale.data.prepare.listing import Item, Listing, Tree, labelled_listing, mixed, read_tree
from nepa_scale.data.prepare.references import LeftOut, Span
from nepa_scale.data.shard_index import is_plain, walk
from nepa_scale.utils.errors import DataError, shortened

TRAIN, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
_CLASS = re.compile(r"(n\d{8})\.tar")
_TRAIN_IMAGE = re.compile(r"(?:n\d{8}/)?(n\d{8}_\d+)\.JPEG")
_VALIDATION_IMAGE = re.compile(r"(?:val/)?(ILSVRC2012_val_(\d{8}))\.JPEG")
KAGGLE_IMAGES = "ILSVRC/Data/CLS-LOC"
_KAGGLE_TABLE = "LOC_val_solution.csv"
_KAGGLE_CLASSES = "LOC_synset_mapping.txt"
_TINY_FOLDER = "tiny-imagenet-200"
_TINY_TABLE = "val/val_annotations.txt"
_TINY_CLASSES = "wnids.txt"
KIT = "ILSVRC2012_devkit_t12.tar.gz"
_LABELS, _TABLE = "data/ILSVRC2012_validation_ground_truth.txt", "data/meta.mat"
_LARGEST = 2**27  # bytes of the whole kit, unpacked; the real one has a few millions


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
        return list_class_folders(tree)
    raise DataError(_complaint(tree.source, missing))


def _complaint(source: Path, missing: list[str]) -> str:
    return "\n".join(f"'{source / name}' is missing" for name in missing)


def _train_items(path: Path, ranks: dict[str, int]) -> list[Item]:
    items: dict[str, Item] = {}
    seen = set()
    with path.open("rb") as file:
        for inner in walk(file, f"'{path}'"):
            match = _CLASS.fullmatch(inner.name)
            if not match or not is_plain(inner) or match[1] not in ranks:
                raise DataError(f"'{path}' holds {inner.name!r:.100}, which is no archive of a class in {KIT}")
            seen.add(match[1])
            where = f"'{path}: {inner.name}'"
            for member in walk(file, where, start=inner.offset_data, size=inner.size):
                name = _TRAIN_IMAGE.fullmatch(member.name)
                if not name or not is_plain(member) or name[1] in items:
                    raise DataError(f"{where} holds {member.name!r:.100}, which is no new image nXXXXXXXX_N.JPEG")
                span = Span(str(path), inner.offset_data + member.offset_data, member.size, f"{TRAIN}: {member.name}")
                items[name[1]] = Item(name[1], span, ranks[match[1]])
    if absent := sorted(set(ranks) - seen):
        raise DataError(f"'{path}' lacks {len(absent)} of {len(ranks)} classes: {shortened(absent)}")
    return list(items.values())


def _validation_items(path: Path, labels: list[int]) -> list[Item]:
    items: dict[int, Item] = {}
    with path.open("rb") as file:
        for member in walk(file, f"'{path}'"):
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


def list_wnid_tree(
    tree: Tree, *, train: str, validation: str, classes: str, table: str, of_image: Mapping[str, str]
) -> Listing:
    """List both splits; a class's number is the rank of its wnid. Raises ``DataError`` with every problem.

    ``train`` and ``validation`` name folders, ``classes`` and ``table`` files; the latter's content is ``of_image``,
    the wnid of each validation image by the name of its file.
    """
    named, images = sorted(_first_words(tree, classes)), in_class_folders(tree, train)
    problems = class_folder_problems(tree, train, images, tree.folders_in(train))
    folders, where, source = set(tree.folders_in(train)), tree.path(train), tree.path(classes)
    lines = {
        f"'{where}' lacks {{}} of {len(named)} classes of '{source}': {{}}": set(named) - folders,
        f"'{where}' has {{}} folders that are no class of '{source}': {{}}": folders - set(named),
    }
    files = {name: name.rpartition("/")[2] for name in tree.files_in(validation) if is_image(name)}
    where, rows = tree.path(validation), tree.path(table)
    lines |= {
        f"'{rows}' has no class for {{}} images of '{where}': {{}}": set(files.values()) - set(of_image),
        f"'{where}' lacks {{}} images that '{rows}' names: {{}}": set(of_image) - set(files.values()),
        f"'{rows}' has {{}} classes that '{source}' lacks: {{}}": set(of_image.values()) - set(named),
    }
    problems += [line.format(f"{len(wrong):,}", shortened(sorted(wrong))) for line, wrong in lines.items() if wrong]
    answered = [(name, of_image[file]) for name, file in files.items() if file in of_image]
    return labelled_listing(tree, named, {"train": images, "validation": answered}, problems)


def _first_words(tree: Tree, name: str) -> list[str]:
    """The wnid at the start of each line of a file. Raises ``DataError`` for one that is there twice."""
    wnids = [line.split()[0] for line in tree.text(name).splitlines() if line.strip()]
    if len(set(wnids)) < len(wnids):
        twice = sorted({wnid for wnid in wnids if wnids.count(wnid) > 1})
        raise DataError(f"'{tree.path(name)}' names a class twice: {shortened(twice)}")
    return wnids


def list_kaggle_imagenet(tree: Tree) -> Listing:
    """List a tree that has ``ILSVRC/Data/CLS-LOC``; the unlabelled images of ``test/`` are counted, not read.

    Raises ``DataError`` with every problem, one per line.
    """
    if missing := [name for name in (_KAGGLE_TABLE, _KAGGLE_CLASSES) if name not in tree.files]:
        raise DataError("\n".join(f"'{tree.path(name)}' is missing: it lies beside ILSVRC/" for name in missing))
    return list_wnid_tree(
        tree,
        train=f"{KAGGLE_IMAGES}/train",
        validation=f"{KAGGLE_IMAGES}/val",
        classes=_KAGGLE_CLASSES,
        table=_KAGGLE_TABLE,
        of_image=_kaggle_table(tree),
    )


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
            raise DataError(
                f"'{tree.path(_KAGGLE_TABLE)}', line {rows.line_num}: expected a new image and boxes of one class"
            )
        table[f"{row[0]}.JPEG"] = wnids.pop()
    return table


def list_tiny_imagenet(source: Path) -> Listing:
    """List ``train/<wnid>/images/``, ``val/images/`` with ``val/val_annotations.txt``, and ``wnids.txt``.

    The unlabelled images of ``test/`` are counted, not read. Raises ``DataError`` with every problem, one per line.
    """
    tree = read_tree(source)
    if _TINY_TABLE not in tree.files and _TINY_FOLDER in tree.folders:
        tree = tree.below(_TINY_FOLDER)
    if missing := [name for name in (_TINY_TABLE, _TINY_CLASSES) if name not in tree.files]:
        raise DataError("\n".join(f"'{tree.path(name)}' is missing" for name in missing))
    return list_wnid_tree(
        tree,
        train="train",
        validation="val/images",
        classes=_TINY_CLASSES,
        table=_TINY_TABLE,
        of_image=_tiny_table(tree),
    )


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


class Devkit(NamedTuple):
    """``classes``: the wnids, sorted; ``validation``: the wnid of each validation image, in order of their numbers."""

    classes: list[str]
    validation: list[str]


def read_devkit(path: Path) -> Devkit:
    """Read the kit in memory. Raises ``DataError`` naming the file that is missing or not as published."""
    content = _unpacked(path)
    files = _wanted(path, content)
    wnids = _wnids(f"{path}: {_TABLE}", files[_TABLE])
    validation = []
    for number, line in enumerate(decode_text(files[_LABELS]).split(), start=1):
        if not line.isdecimal() or int(line) not in wnids:
            raise DataError(f"'{path}': {_LABELS}, line {number}: {line[:20]!r} is no class of {_TABLE}")
        validation.append(wnids[int(line)])
    return Devkit(sorted(wnids.values()), validation)


def _unpacked(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError:
        raise DataError(f"'{path}' is missing: it holds the classes of the validation images") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"'{path}' is not a complete .tar.gz file: {error}") from None
    if len(content) > _LARGEST:
        raise DataError(f"'{path}' unpacks to more than {_LARGEST:,} bytes: it is not the published kit")
    return content


def _wanted(path: Path, content: bytes) -> dict[str, bytes]:
    contents = {}
    for member in walk(io.BytesIO(content), f"'{path}'"):
        inside = member.name.partition("/")[2]
        if inside in {_LABELS, _TABLE} and is_plain(member):
            contents[inside] = content[member.offset_data : member.offset_data + member.size]
    missing = [name for name in (_LABELS, _TABLE) if name not in contents]
    if missing:
        raise DataError("\n".join(f"'{path}' has no {name}" for name in missing))
    return contents


def _wnids(name: str, content: bytes) -> dict[int, str]:
    """The wnid of every class by its number in ILSVRC; the table also holds inner nodes of the hierarchy."""
    from scipy.io import loadmat

    try:
        synsets = loadmat(io.BytesIO(content), squeeze_me=True)["synsets"]
        rows = zip(synsets["ILSVRC2012_ID"], synsets["WNID"], synsets["num_children"], strict=True)
        wnids = {int(number): str(wnid) for number, wnid, children in rows if int(children) == 0}
    except Exception as error:  # a parser of a format without a checksum: anything can come out of damaged input
        raise DataError(f"'{name}' is not the published table: {first_line(error)}") from None
    if not wnids or len(set(wnids.values())) != len(wnids):
        raise DataError(f"'{name}' is not the published table: it has no classes, or one twice")
    return wnids
