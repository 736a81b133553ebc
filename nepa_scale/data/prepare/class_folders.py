"""Class folders ``train/<class>/`` and ``validation/<class>/`` as a source, in a folder or a zip file."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence

from nepa_scale.data.file_io import is_image
from nepa_scale.data.prepare.listing import Labelled, Listing, Tree, divided, labelled_listing
from nepa_scale.utils.errors import DataError, nearest, shortened

TRAIN_NAMES = ("train", "training")
VALIDATION_NAMES = ("validation", "val", "valid")
_WANTED = "must hold train/ and validation/ (or val/, valid/), each with class folders"


def list_class_folders(tree: Tree, val_fraction: float | None = None, *, innermost: bool = False) -> Listing:
    """List ``train/<class>/`` and ``validation/<class>/`` in a source, images at any depth.

    Classes are numbered in the order of their names. The class of an image is the outermost folder around it, or with
    ``innermost`` the path of all of them, such as ``animals/cats``. With ``val_fraction`` that part of the training
    images becomes the validation split; the class folders may then lie in the source itself. Raises ``DataError`` with
    every problem, one per line.
    """
    tree = tree.below(_root(tree))
    train, validation = split_folder(tree, TRAIN_NAMES), split_folder(tree, VALIDATION_NAMES)
    if val_fraction is None:
        return _list_splits(tree, train, validation, innermost=innermost)
    if validation is not None:
        raise DataError(
            f"val_fraction={val_fraction:g} takes validation images out of the training images, but "
            f"'{tree.path(validation)}' is there: leave val_fraction out to use it, or move it away"
        )
    return _list_divided(tree, train or "", val_fraction, innermost=innermost)


def split_folder(tree: Tree, names: Collection[str]) -> str | None:
    """The folder of a split, in small or capital letters. Raises ``DataError`` naming both if there are two."""
    folders = [name for name in tree.folders_in() if name.lower() in names and tree.folders_in(name)]
    if len(folders) > 1:
        both = " and ".join(f"'{tree.path(name)}'" for name in folders)
        raise DataError(f"{both} could both be meant: move all but one away")
    return folders[0] if folders else None


def in_class_folders(tree: Tree, folder: str, *, innermost: bool = False) -> Labelled:
    """The images below the class folders in ``folder``, each with the name of its class folder, or with ``innermost``
    with the path of all folders it lies in."""
    start = len(folder) + 1 if folder else 0
    names = (name for name in tree.files_below(folder) if is_image(name) and "/" in name[start:])
    return [(name, name[start:].rpartition("/")[0] if innermost else name[start:].partition("/")[0]) for name in names]


def _classes_of(tree: Tree, folder: str, images: Labelled, *, innermost: bool) -> list[str]:
    """The names of the classes in order: the class folders, or the paths of those that hold images."""
    return sorted({name for _, name in images}) if innermost else tree.folders_in(folder)


def class_folder_problems(tree: Tree, folder: str, images: Labelled, classes: Sequence[str]) -> list[str]:
    """Class folders that have no images, or names that look the same."""
    used = {name for _, name in images}
    where = tree.path(folder)
    problems = [f"'{where / name}' has no images" for name in classes if name not in used]
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(unicodedata.normalize("NFC", name), []).append(name)
    problems += [
        f"'{where}' has class folders whose names look the same: {' and '.join(map(ascii, names))}"
        for names in alike.values()
        if len(names) > 1
    ]
    return problems if classes else [f"'{where}' has no class folders"]


def _root(tree: Tree) -> str:
    """The folder that holds the splits: the source, or the only one in it that does."""
    holders = [folder for folder in ("", *tree.folders_in()) if _holds_training(tree, folder)]
    if "" in holders:
        return ""
    if len(holders) > 1:
        both = " and ".join(f"'{tree.path(folder)}'" for folder in holders)
        raise DataError(f"{both} both hold a data set: give one of them as source=")
    return holders[0] if holders else _innermost(tree)


def _holds_training(tree: Tree, folder: str) -> bool:
    inside = (name for name in tree.folders_in(folder) if name.lower() in TRAIN_NAMES)
    return any(tree.folders_in(_inside(folder, name)) for name in inside)


def _innermost(tree: Tree) -> str:
    """Go down while there is one folder that holds folders, as in a zip file of a folder of class folders."""
    folder = ""
    while len(inside := tree.folders_in(folder)) == 1 and tree.folders_in(deeper := _inside(folder, inside[0])):
        folder = deeper
    return folder


def _inside(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _list_splits(tree: Tree, train: str | None, validation: str | None, *, innermost: bool) -> Listing:
    if train is None or validation is None:
        raise DataError(_missing_split(tree, train))
    folders = {"train": train, "validation": validation}
    images = {split: in_class_folders(tree, folder, innermost=innermost) for split, folder in folders.items()}
    classes = _classes_of(tree, train, images["train"], innermost=innermost)
    images["validation"] = _under_the_names_of(classes, images["validation"])
    problems = class_folder_problems(tree, train, images["train"], classes)
    unknown = sorted({name for _, name in images["validation"]} - set(classes))
    problems += [
        f"'{tree.path(f'{validation}/{name}')}' is a class that '{tree.path(train)}' lacks{nearest(name, classes)}"
        for name in unknown
    ]
    if not images["validation"]:
        problems.append(f"'{tree.path(validation)}' has no images in class folders")
    return labelled_listing(tree, classes, images, problems, _remarks(train, classes, images, innermost=innermost))


def _list_divided(tree: Tree, train: str, fraction: float, *, innermost: bool) -> Listing:
    images = in_class_folders(tree, train, innermost=innermost)
    classes = _classes_of(tree, train, images, innermost=innermost)
    problems = class_folder_problems(tree, train, images, classes)
    if len(classes) == 1:
        problems.append(f"'{tree.path(train)}' has a single class folder, '{classes[0]}': is source= one too high?")
    ranks = {name: rank for rank, name in enumerate(classes)}
    splits, remark = divided(images, fraction, [ranks[name] for _, name in images])
    if not splits["validation"] and not problems:
        problems.append(f"'{tree.path(train)}' has too few images to take validation images out of them")
    remarks = [f"{remark} of each class", *_remarks(train, classes, splits, innermost=innermost)]
    return labelled_listing(tree, classes, splits, problems, remarks)


def _missing_split(tree: Tree, train: str | None) -> str:
    inside = [f"{name}/" for name in tree.folders_in()]
    there = f" (there are: {shortened(inside)})" if inside else ""
    problems = [f"'{tree.source}' {_WANTED}{there}"]
    flat = [name for name in tree.folders_in() if name.lower() in (*TRAIN_NAMES, *VALIDATION_NAMES)]
    for name in flat:
        images = [file for file in tree.files_in(name) if is_image(file)]
        if images and not tree.folders_in(name):
            problems.append(f"'{tree.path(name)}' has no class folders, but {len(images):,} images in itself")
    if len(problems) == 1:
        what = "class folders without splits" if train is None else "a set without validation images"
        problems[0] += f"; for {what} give val_fraction=0.1, which takes them out of the training images"
    return "\n".join(problems)


def _under_the_names_of(classes: Sequence[str], images: Labelled) -> Labelled:
    """Name classes as the training folders are named, where the same letters are stored in another Unicode form."""
    names = {unicodedata.normalize("NFC", name): name for name in classes}
    return [(path, names.get(unicodedata.normalize("NFC", name), name)) for path, name in images]


def _remarks(train: str, classes: Sequence[str], images: dict[str, Labelled], *, innermost: bool) -> list[str]:
    """Remarks on what the user may not have intended."""
    remarks = []
    depth = 2 if train else 1  # of the names of images that lie directly in a class folder
    deeper = [name for found in images.values() for name, _ in found if name.count("/") > depth]
    if deeper and not innermost:
        remarks.append(
            f"{len(deeper):,} images in folders inside class folders belong to the outer one's class, such as "
            f"{deeper[0]!r}; class_folder=innermost takes the folders by their paths"
        )
    absent = sorted(set(classes) - {name for _, name in images["validation"]})
    if absent:
        remarks.append(f"{len(absent)} of {len(classes)} classes have no validation images: {shortened(absent)}")
    return remarks
