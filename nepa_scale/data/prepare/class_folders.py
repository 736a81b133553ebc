"""Class folders ``train/<class>/`` and ``{val,validation}/<class>/`` as a source."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from nepa_scale.data.ade20k import IMAGE_SUFFIXES
from nepa_scale.data.prepare.mixing import mixed
from nepa_scale.data.prepare.references import Listing, Reference, Span, numbered
from nepa_scale.errors import DataError

Labelled = list[tuple[Reference, int]]


def list_class_folders(source: Path) -> Listing:
    """List ``source/train/<class>/`` and ``source/{validation,val}/<class>/``, images at any depth.

    Classes are numbered in the order of their names. Raises ``DataError`` with every problem, one per line.
    """
    folders = {"train": source / "train", "validation": _validation_folder(source)}
    if not all(folder.is_dir() for folder in folders.values()):
        raise DataError(f"'{source}' must hold train/ and validation/ (or val/), each with class folders")
    classes = _class_names(folders["train"])
    images = {split: _labelled_images(folder, classes) for split, folder in folders.items()}
    if problems := _problems(folders, classes, images):
        raise DataError("\n".join(problems))
    images["train"] = mixed(images["train"])
    return Listing({split: numbered(split, found) for split, found in images.items()}, class_names=classes)


def whole_file(entry: os.DirEntry[str] | Path, source: Path) -> Span:
    """Refer to all bytes of a file."""
    path = os.fspath(entry)
    return Span(path, 0, entry.stat().st_size, os.path.relpath(path, source))


def _validation_folder(source: Path) -> Path:
    return source / "val" if (source / "val").is_dir() else source / "validation"


def _problems(folders: Mapping[str, Path], classes: list[str], images: Mapping[str, Labelled]) -> list[str]:
    used = {label for _, label in images["train"]}
    problems = [f"'{folders['train'] / name}' has no images" for label, name in enumerate(classes) if label not in used]
    if not classes:
        problems.append(f"'{folders['train']}' has no class folders")
    unknown = sorted(set(_class_names(folders["validation"])) - set(classes))
    problems += [f"'{folders['validation'] / name}' is a class that '{folders['train']}' lacks" for name in unknown]
    if not images["validation"]:
        problems.append(f"'{folders['validation']}' has no images in class folders")
    return problems


def _class_names(folder: Path) -> list[str]:
    return sorted(child.name for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _labelled_images(folder: Path, classes: list[str]) -> Labelled:
    return [
        (whole_file(entry, folder.parent), label)
        for label, name in enumerate(classes)
        for entry in sorted(_images_below(folder / name), key=lambda entry: Path(entry.path))
    ]


def _images_below(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Images at any depth; links to folders are not followed, so there are no circles."""
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _images_below(Path(entry.path))
            elif Path(entry.name).suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith("."):
                yield entry
