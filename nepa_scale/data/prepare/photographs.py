"""Photographs without class labels as a source: alone, or with the masks of Cityscapes, COCO-Stuff, Pascal VOC, and of
plain images/ with masks/.

ADE20K, which is also read where it lies, has ``ade20k.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from nepa_scale.data.file_io import is_image, read_text, splits_of
from nepa_scale.data.prepare.class_folders import TRAIN_NAMES, VALIDATION_NAMES
from nepa_scale.data.prepare.listing import Item, Listing, Tree, divided, mixed, read_tree
from nepa_scale.data.prepare.pixels import MOST_CLASSES, Recoding, by_colour, by_value
from nepa_scale.data.prepare.settings import (
    CityscapesSettings,
    CocoStuffSettings,
    DividedSettings,
    ImagesSettings,
    MaskSettings,
    VocSettings,
)
from nepa_scale.utils.errors import DataError, shortened

Pairs = list[tuple[str, str | None]]  # names of a photograph and its mask, if it has one, in a tree
SPLIT_NAMES = {"train": TRAIN_NAMES, "validation": VALIDATION_NAMES}
IMAGES_NAMES = ("images", "image", "imgs", "img")
MASKS_NAMES = ("masks", "mask", "labels", "annotations")
UNLABELLED = 255

#: Cityscapes' 19 classes that are scored, and their ``labelIds`` (cityscapesScripts, helpers/labels.py).
CITYSCAPES_VALUES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITYSCAPES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
#: COCO-Stuff's masks hold 0 to 181, the id of a class less one; these ids are of no class (labels.md of its authors).
COCO_STUFF_VALUES = 182
COCO_STUFF_GAPS = frozenset({11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90})
#: Pascal VOC's classes by their value, 0 to 20 (its development kit).
VOC = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def list_images(settings: ImagesSettings) -> Listing:
    """List the images in ``train/`` and ``val/`` at any depth or, with ``val_fraction``, in the source itself."""
    tree, problems = _below_images(read_tree(settings.source)), list[str]()
    train, validation = (_child(tree, "", names) for names in SPLIT_NAMES.values())
    held = set(filter(is_image, tree.files_below(validation))) if validation else set()
    others = [name for name in tree.files_below(train or "") if is_image(name) and name not in held]
    pairs: dict[str, Pairs] = {"train": [(name, None) for name in others]}
    if validation:
        pairs["validation"] = [(name, None) for name in sorted(held)]
    pairs, remarks = _with_validation(tree, pairs, validation, settings, problems)
    problems += [f"'{tree.source}' has no images for {split}" for split, found in pairs.items() if not found]
    return _listing(tree, pairs, (), None, problems, remarks)


def list_cityscapes(settings: CityscapesSettings) -> Listing:
    """List ``leftImg8bit/`` and ``gtFine/``. Masks are ``labelIds`` where there are any, else ``labelTrainIds``."""
    tree, problems = _below_parent_of(read_tree(settings.source), "leftImg8bit"), list[str]()
    by_id = any(name.endswith("_gtFine_labelIds.png") for name in tree.files)
    masks = "_gtFine_labelIds" if by_id else "_gtFine_labelTrainIds"
    pairs = {
        split: _paired(tree, f"leftImg8bit/{part}", f"gtFine/{part}", problems, ("_leftImg8bit", masks))
        for split, part in (("train", "train"), ("validation", "val"))
    }
    values = CITYSCAPES_VALUES if by_id else range(len(CITYSCAPES))
    recoding = by_value(values, [*range(max(values)), UNLABELLED])
    return _listing(tree, pairs, CITYSCAPES, recoding, problems)


def list_coco_stuff(settings: CocoStuffSettings) -> Listing:
    """List the images of ``train2017/`` and ``val2017/`` with their pixel maps, and 171 classes.

    The names are those of ``labels.txt``, where the source holds it.
    """
    tree, problems = read_tree(settings.source), list[str]()
    holders = ("stuffthingmaps", "annotations", "pixelmaps")
    masks = next((name for name in holders if f"{name}/train2017" in tree.folders), holders[0])
    images = "images/" if "images/train2017" in tree.folders else ""
    pairs = {
        split: _paired(tree, f"{images}{part}", f"{masks}/{part}", problems)
        for split, part in (("train", "train2017"), ("validation", "val2017"))
    }
    values = [value for value in range(COCO_STUFF_VALUES) if value not in COCO_STUFF_GAPS]
    lines = tree.text("labels.txt").splitlines() if "labels.txt" in tree.files else []
    names = {number.strip(): name.strip() for number, _, name in (line.partition(":") for line in lines)}
    known = tuple(names.get(str(value + 1)) or str(value) for value in values)
    return _listing(tree, pairs, known, by_value(values, [UNLABELLED]), problems)


def list_voc(settings: VocSettings) -> Listing:
    """List the images that ``ImageSets/Segmentation`` names for training and validation."""
    tree, problems = _below_parent_of(read_tree(settings.source), "JPEGImages"), list[str]()
    pairs: dict[str, Pairs] = {}
    for split, named in (("train", settings.train_list), ("validation", "val")):
        table = f"ImageSets/Segmentation/{named}.txt"
        if table not in tree.files:
            raise DataError(f"'{tree.path(table)}' does not exist: it lists the {split} images")
        stems = tree.text(table).split()
        pairs[split] = [(f"JPEGImages/{stem}.jpg", f"{settings.mask_folder}/{stem}.png") for stem in stems]
        missing = [name for pair in pairs[split] for name in pair if name and name not in tree.files]
        if missing:
            problems.append(f"'{tree.path(table)}' names what is not there: {shortened(missing)}")
    return _listing(tree, pairs, VOC, by_value(range(len(VOC)), [UNLABELLED]), problems)


def list_masks(settings: MaskSettings) -> Listing:
    """List ``images/`` and ``masks/`` with splits inside them, or inside of splits, or without any.

    Raises ``DataError`` with every problem, one per line.
    """
    tree, problems = _below_images(read_tree(settings.source)), list[str]()
    folders = _folders_by_split(tree)
    pairs = {
        split: _paired(tree, images, masks, problems, ("", settings.mask_suffix))
        for split, (images, masks) in folders.items()
    }
    pairs, remarks = _with_validation(tree, pairs, folders.get("validation", (None,))[0], settings, problems)
    recoding, names = _classes(settings)
    return _listing(tree, pairs, names, recoding, problems, remarks)


def _with_validation(
    tree: Tree, pairs: dict[str, Pairs], folder: str | None, settings: DividedSettings, problems: list[str]
) -> tuple[dict[str, Pairs], list[str]]:
    """The pairs with a validation split, from its own ``folder`` or by ``val_fraction``, and the line that says so."""
    fraction = settings.val_fraction
    if folder is not None and fraction is not None:
        problems.append(f"val_fraction={fraction:g}: '{tree.path(folder)}' is there; leave val_fraction out to use it")
    elif fraction is not None:
        pairs, remark = divided(pairs["train"], fraction)
        return pairs, [remark]
    elif folder is None and pairs["train"]:
        problems.append(f"'{tree.source}' has no validation images; val_fraction=0.1 takes them out of the others")
    return pairs, []


def _classes(settings: MaskSettings) -> tuple[Recoding, tuple[str, ...]]:
    """What the values or colours of plain masks stand for, and the names of the classes."""
    if settings.colours is not None:
        return by_colour(read_text(settings.colours), str(settings.colours))
    values = settings.values or ()
    names = tuple(map(str, values))
    if settings.names is not None:
        names = tuple(line.strip() for line in read_text(settings.names).splitlines() if line.strip())
        if len(names) != len(values):
            raise DataError(f"'{settings.names}' has {len(names)} names, but values= states {len(values)} classes")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(f"'{settings.names}' names a class twice: {shortened(twice)}")
    return by_value(values, settings.ignore), names


def _folders_by_split(tree: Tree) -> dict[str, tuple[str, str]]:
    """By split the folders of images and of masks; ``train`` alone where the source has no splits."""
    both = _images_and_masks(tree, "")
    if both is None:
        found = {split: _child(tree, "", names) for split, names in SPLIT_NAMES.items()}
        inside = {split: _images_and_masks(tree, folder) for split, folder in found.items() if folder}
    elif all(_child(tree, folder, TRAIN_NAMES) for folder in both):
        by_split = {split: [_child(tree, folder, names) for folder in both] for split, names in SPLIT_NAMES.items()}
        inside = {split: (images, masks) for split, (images, masks) in by_split.items() if images and masks}
    else:
        inside = {"train": both}
    complete = {split: folders for split, folders in inside.items() if folders is not None}
    if "train" not in complete:
        wanted = f"one of {', '.join(IMAGES_NAMES)} and one of {', '.join(MASKS_NAMES)}"
        raise DataError(f"'{tree.source}' must hold folders of images and of masks ({wanted}), each with train/ or not")
    return complete


def _images_and_masks(tree: Tree, folder: str) -> tuple[str, str] | None:
    images, masks = (_child(tree, folder, names) for names in (IMAGES_NAMES, MASKS_NAMES))
    return (images, masks) if images and masks else None


def _child(tree: Tree, folder: str, names: Collection[str]) -> str | None:
    """The folder in ``folder`` that has one of the ``names``, in small or capital letters; by its whole name."""
    inside = {name.lower(): name for name in reversed(tree.folders_in(folder))}
    found = next((inside[name] for name in names if name in inside), None)
    return None if found is None else f"{folder}/{found}" if folder else found


def _below_images(tree: Tree) -> Tree:
    """The tree from the folder on that holds images, masks or splits: itself, or the only folder in it."""
    inside, has_images = tree.folders_in(), any(map(is_image, tree.files_in("")))
    is_around = (
        len(inside) == 1 and not has_images and inside[0].lower() not in IMAGES_NAMES and not splits_of(inside[0])
    )
    return tree.below(inside[0]) if is_around else tree


def _below_parent_of(tree: Tree, name: str) -> Tree:
    """The tree from the folder on that holds the folder ``name``. Raises ``DataError`` where none or several do."""
    parents = sorted(path.rpartition("/")[0] for path in tree.folders if path.rpartition("/")[2] == name)
    if len(parents) == 1:
        return tree.below(parents[0])
    both = " and ".join(f"'{tree.path(parent)}'" for parent in parents)
    raise DataError(f"{both} hold '{name}': give one of them as source=" if parents else _without(tree, name))


def _without(tree: Tree, name: str) -> str:
    return f"'{tree.source}' holds no folder '{name}' (there are: {shortened(tree.folders_in()) or 'none'})"


def _paired(tree: Tree, images: str, masks: str, problems: list[str], suffixes: tuple[str, str] = ("", "")) -> Pairs:
    """The photographs below one folder and their masks below another, by what their names have in common.

    A name counts without its extension and the suffix of its kind, with the folders between; one that has not that
    suffix is not read.
    """
    photographs, with_mask = (
        _by_stem(tree, folder, suffix, problems) for folder, suffix in zip((images, masks), suffixes, strict=True)
    )
    if not photographs:
        problems.append(f"'{tree.path(images)}' has no images{f' named *{suffixes[0]}' if suffixes[0] else ''}")
    if alone := [name for stem, name in photographs.items() if stem not in with_mask]:
        ending = f"*{suffixes[1]}" if suffixes[1] else "of the same names"
        problems.append(f"{len(alone):,} images have no mask {ending} in '{tree.path(masks)}': {shortened(alone)}")
    return [(name, with_mask[stem]) for stem, name in photographs.items() if stem in with_mask]


def _by_stem(tree: Tree, folder: str, suffix: str, problems: list[str]) -> dict[str, str]:
    """The image files below a folder by their names without folder, suffix and extension."""
    found: dict[str, str] = {}
    for name in filter(is_image, tree.files_below(folder)):
        stem = name[len(folder) + 1 :].rpartition(".")[0]
        if stem.endswith(suffix) and (other := found.setdefault(stem.removesuffix(suffix), name)) != name:
            problems.append(f"'{tree.path(name)}' and '{other}' have the same name: keep one of them")
    return found


def _listing(
    tree: Tree,
    pairs: Mapping[str, Pairs],
    names: Sequence[str],
    recoding: Recoding | None,
    problems: Sequence[str],
    remarks: Sequence[str] = (),
) -> Listing:
    """The pairs of each split, numbered; training pairs are mixed. Raises ``DataError`` if there are ``problems``."""
    if len(names) > MOST_CLASSES:
        problems = [*problems, f"{len(names)} classes: masks are stored with 8 bits, which hold {MOST_CLASSES}"]
    tree.read(name for found in pairs.values() for pair in found for name in pair if name is not None)
    if problems:
        raise DataError("\n".join([*problems, *tree.left_out.lines()]))
    ordered = {split: mixed(found) if split == "train" else found for split, found in pairs.items()}
    splits = {
        split: [
            Item(f"{split}_{index:08d}", tree.reference(image), mask=None if mask is None else tree.reference(mask))
            for index, (image, mask) in enumerate(found)
        ]
        for split, found in ordered.items()
    }
    return Listing(splits, mask_class_names=names, left_out=tree.left_out, remarks=remarks, recoding=recoding)
