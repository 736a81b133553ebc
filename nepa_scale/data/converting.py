"""Folders of images as streams of samples, to be written as shards. Image bytes pass unchanged."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from nepa_scale.data import ade20k
from nepa_scale.data.info import make_info
from nepa_scale.data.writing import Members
from nepa_scale.errors import DataError


class Conversion(NamedTuple):
    """The ``_info.json`` content of a data set and, for each split, its samples."""

    info: dict[str, Any]
    samples: dict[str, Iterator[Members]]


def class_folders(source: Path, name: str, shard_size: int) -> Conversion:
    """Read ``source/train/<class>/`` and ``source/{validation,val}/<class>/``, images at any depth.

    Classes are numbered in the order of their names. Training images are mixed, so that a reader that streams
    the shards meets all classes. Raises ``DataError`` with every problem, one per line.
    """
    folders = {"train": source / "train", "validation": _validation_folder(source)}
    if not all(folder.is_dir() for folder in folders.values()):
        raise DataError(f"'{source}' must hold train/ and validation/ (or val/), each with class folders")
    classes = _class_names(folders["train"])
    files = {split: _labelled_files(folder, classes) for split, folder in folders.items()}
    if problems := _class_problems(folders, classes, files):
        raise DataError("\n".join(problems))
    mixed = np.random.default_rng(0).permutation(len(files["train"]))
    files["train"] = [files["train"][index] for index in mixed]
    sizes = {split: len(found) for split, found in files.items()}
    info = make_info(name, split_sizes=sizes, shard_size=shard_size, class_names=classes)
    return Conversion(info, {split: _labelled_samples(split, found) for split, found in files.items()})


def _validation_folder(source: Path) -> Path:
    return source / "val" if (source / "val").is_dir() else source / "validation"


def _class_problems(
    folders: Mapping[str, Path], classes: list[str], files: Mapping[str, list[tuple[Path, int]]]
) -> list[str]:
    used = {label for _, label in files["train"]}
    problems = [f"'{folders['train'] / name}' has no images" for label, name in enumerate(classes) if label not in used]
    if not classes:
        problems.append(f"'{folders['train']}' has no class folders")
    unknown = sorted(set(_class_names(folders["validation"])) - set(classes))
    problems += [f"'{folders['validation'] / name}' is a class that '{folders['train']}' lacks" for name in unknown]
    if not files["validation"]:
        problems.append(f"'{folders['validation']}' has no images in class folders")
    return problems


def _class_names(folder: Path) -> list[str]:
    return sorted(child.name for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _labelled_files(folder: Path, classes: list[str]) -> list[tuple[Path, int]]:
    found = []
    for label, name in enumerate(classes):
        inside = (folder / name).rglob("*")
        images = (path for path in inside if path.suffix.lower() in ade20k.IMAGE_SUFFIXES)
        found += [(path, label) for path in sorted(images) if not path.name.startswith(".")]
    return found


def _labelled_samples(split: str, files: list[tuple[Path, int]]) -> Iterator[Members]:
    for index, (path, label) in enumerate(files):
        content = path.read_bytes()
        _open_header(path, content)
        yield {"__key__": f"{split}_{index:08d}", _extension(path): content, "cls": str(label).encode()}


def ade20k_folder(source: Path, name: str, shard_size: int) -> Conversion:
    """Read the ADE20K folder layout; names and the bytes of images and masks are kept.

    Raises ``DataError`` with every problem, one per line.
    """
    base = ade20k.base_folder(source)
    if base is None:
        raise DataError(f"'{source}' must hold ADE20K's images/training and annotations/training")
    images = {split: ade20k.images(base, split) for split in ade20k.SPLIT_FOLDERS}
    problems = ade20k.problems(base)
    dotted = [path for found in images.values() for path in found if "." in path.stem]
    problems += [f"'{path}': a dot inside the name would be taken for the start of its extension" for path in dotted]
    if problems:
        raise DataError("\n".join(problems))
    info = make_info(
        name,
        split_sizes={split: len(found) for split, found in images.items()},
        shard_size=shard_size,
        mask_class_names=ade20k.class_names(base),
    )
    return Conversion(info, {split: _masked_samples(base, split, found) for split, found in images.items()})


def _masked_samples(base: Path, split: str, images: list[Path]) -> Iterator[Members]:
    for path in images:
        mask_path = ade20k.mask_of(base, split, path)
        image, mask = path.read_bytes(), mask_path.read_bytes()
        sizes = _open_header(path, image), _open_header(mask_path, mask)
        if sizes[0] != sizes[1]:
            raise DataError(f"'{path}' is {_pixels(sizes[0])}, its mask '{mask_path.name}' {_pixels(sizes[1])}")
        yield {"__key__": path.stem, _extension(path): image, "seg.png": mask}


def _open_header(path: Path, content: bytes) -> tuple[int, int]:
    """Return (width, height). Raises ``DataError`` for what is no image."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise DataError(f"'{path}' is no readable image") from None


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]} pixels"


def _extension(path: Path) -> str:
    return path.suffix.lower().removeprefix(".")
