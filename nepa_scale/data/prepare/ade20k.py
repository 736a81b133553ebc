"""ADE20K's scene parsing benchmark, as a folder or as its zip file: listed as a source, or checked where it lies."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from nepa_scale.data import ade20k
from nepa_scale.data.file_io import images_in, is_image
from nepa_scale.data.prepare.listing import Item, Listing, Tree, read_tree
from nepa_scale.data.prepare.pixels import MaskCount, checked
from nepa_scale.data.shard_index import LONGEST_KEY
from nepa_scale.distributed.processes import unordered
from nepa_scale.utils.errors import DataError
from nepa_scale.utils.progress import Report

ZIP_NAME = f"{ade20k.FOLDER_NAME}.zip"
_TRAINING = "images/training"
_AT_ONCE = 100  # images in a task


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


@dataclass(frozen=True)
class _Pairs:
    """Some photographs and their masks."""

    images: list[tuple[Path, Path]]
    mask_classes: int


@dataclass
class _Findings:
    """The faults of some pairs, and the count of their masks."""

    faults: list[str] = field(default_factory=list)
    count: MaskCount = field(default_factory=MaskCount)


def verify_ade20k(folder: Path, workers: int | None, report: Report) -> tuple[list[str], list[str], int]:
    """Return every fault, remarks that are none, and how many images were looked at."""
    base = ade20k.base_folder(folder) or folder
    faults = ade20k.problems(base)
    classes = len(ade20k.class_names(base))
    images, masks = 0, MaskCount()
    for split in ade20k.SPLIT_FOLDERS:
        pairs = [(image, ade20k.mask_of(base, split, image)) for image in ade20k.images(base, split)]
        known = [pair for pair in pairs if pair[1].is_file()]
        tasks = [_Pairs(known[start : start + _AT_ONCE], classes) for start in range(0, len(known), _AT_ONCE)]
        findings = _Findings()
        with closing(unordered(_check, tasks, workers)) as outcomes:
            for done, batch in enumerate(outcomes, start=1):
                findings.faults += batch.faults
                findings.count.merge(batch.count)
                report(f"{split} images", min(done * _AT_ONCE, len(known)), len(known))
        faults += [
            *sorted(findings.faults),
            *filter(None, [findings.count.fault(split)]),
            *_strays(base, split, {mask for _, mask in pairs}),
        ]
        images += len(known)
        masks.merge(findings.count)
    return faults, masks.remarks(), images


def _check(pairs: _Pairs) -> _Findings:
    findings = _Findings()
    for image, mask in pairs.images:
        try:
            encoded = image.read_bytes(), mask.read_bytes()
            checked(*encoded, mask_classes=pairs.mask_classes, resize=None, count=findings.count)
        except DataError as error:
            findings.faults.append(f"'{image}': {error}")
        except OSError as error:
            findings.faults.append(f"'{error.filename or image}' cannot be read: {error.strerror}")
    return findings


def _strays(base: Path, split: str, masks: set[Path]) -> list[str]:
    folder = base / "annotations" / ade20k.SPLIT_FOLDERS[split]
    present = images_in(folder) if folder.is_dir() else []
    return [f"'{path}' is a mask without a photograph" for path in present if path not in masks]
