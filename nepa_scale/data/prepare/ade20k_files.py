"""ADE20K's scene parsing benchmark as a source: the folder, or its zip file as it was downloaded."""

from __future__ import annotations

from pathlib import Path

from nepa_scale.data import ade20k
from nepa_scale.data.file_names import is_image
from nepa_scale.data.prepare.references import Item, Listing
from nepa_scale.data.prepare.tree import Tree, read_tree
from nepa_scale.data.shard_index import LONGEST_KEY
from nepa_scale.utils.errors import DataError

ZIP_NAME = f"{ade20k.FOLDER_NAME}.zip"
_TRAINING = "images/training"


def list_ade20k(source: Path) -> Listing:
    """List a folder or a zip file in ADE20K's layout. Raises ``DataError`` with every problem, one per line."""
    archive = source / ZIP_NAME
    tree = read_tree(archive if archive.is_file() and not ade20k.base_folder(source) else source)
    if _TRAINING not in tree.folders and f"{ade20k.FOLDER_NAME}/{_TRAINING}" in tree.folders:
        tree = tree.below(ade20k.FOLDER_NAME)
    if _TRAINING not in tree.folders:
        raise DataError(f"'{source}' must hold ADE20K's images/training and annotations/training, or be its zip")
    problems: list[str] = []
    pairs = {split: _paired(tree, folder, problems) for split, folder in ade20k.SPLIT_FOLDERS.items()}
    if problems:
        raise DataError("\n".join(problems))
    class_names = _class_names(tree)
    tree.read(name for found in pairs.values() for pair in found.values() for name in pair)
    splits = {
        split: [Item(stem, tree.reference(image), mask=tree.reference(mask)) for stem, (image, mask) in found.items()]
        for split, found in pairs.items()
    }
    return Listing(splits, mask_class_names=class_names, left_out=tree.left_out)


def unread(base: Path) -> list[str]:
    """A line for each kind of file that is passed over where the folder is read directly, without being prepared."""
    tree = read_tree(base)
    images = [(split, image) for split in ade20k.SPLIT_FOLDERS for image in ade20k.images(base, split)]
    masks = [ade20k.mask_of(base, split, image) for split, image in images]
    read = [base / ade20k.CLASS_TABLE, *(image for _, image in images), *masks]
    tree.read(path.relative_to(base).as_posix() for path in read)
    return tree.left_out.lines()


def _paired(tree: Tree, folder: str, problems: list[str]) -> dict[str, tuple[str, str]]:
    """The names of photographs and their masks, by what they have in common."""
    prefix, base = f"images/{folder}/", tree.source
    images = [name for name in tree.files_in(f"images/{folder}") if is_image(name)]
    masks = set(tree.files_in(f"annotations/{folder}"))
    if not images:
        problems.append(f"'{base / 'images' / folder}' has no images")
    elif not masks:
        problems.append(f"'{base / 'annotations' / folder}' is missing: the masks of {len(images)} images")
        return {}
    pairs: dict[str, tuple[str, str]] = {}
    for name in images:
        stem = name.removeprefix(prefix).rpartition(".")[0]
        mask = f"annotations/{folder}/{stem}.png"
        if "." in stem:
            problems.append(f"'{base / name}': a dot inside the name would be taken for the start of its extension")
        elif len(stem.encode("utf-8", "surrogateescape")) > LONGEST_KEY or not stem.isprintable():
            problems.append(f"{name!r:.80}… in '{base}': a name of up to {LONGEST_KEY} printable bytes is expected")
        elif stem in pairs:
            problems.append(f"'{base / name}' and '{pairs[stem][0]}' would share one mask: keep one of them")
        elif mask not in masks:
            problems.append(f"'{base / name}' has no mask '{stem}.png'")
        else:
            pairs[stem] = name, mask
    return pairs


def _class_names(tree: Tree) -> tuple[str, ...]:
    if ade20k.CLASS_TABLE not in tree.files:
        return ade20k.numbers_as_names()
    return ade20k.parse_class_names(tree.text(ade20k.CLASS_TABLE), ade20k.CLASS_TABLE)
