"""The test sets of ImageNet classifiers as they lie on disk after their official download: images and right answers.

ImageNet-V2 (arXiv 1902.10811), -R (arXiv 2006.16241), -A (arXiv 1907.07174), -Sketch (arXiv 1905.13549), -C (arXiv
1903.12261), and ReaL, new labels of ImageNet's validation images (arXiv 2006.07159). Free of torch.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nepa_scale.data.file_io import images_below, images_in
from nepa_scale.utils.errors import DataError, UserError, shortened
from nepa_scale.utils.files import read_json

SEVERITIES = ("1", "2", "3", "4", "5")
#: AlexNet's mean error over the severities of each of ImageNet-C's fifteen corruptions (the authors' code): the unit of
#: a corruption error. Its four extra corruptions are not part of the average.
ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
VALIDATION_IMAGES = 50_000


@dataclass(frozen=True)
class Answered:
    """An image and the classes, by WordNet id, of which any is a right answer."""

    path: Path
    right: frozenset[str]


@dataclass(frozen=True)
class Part:
    """The images that one score is taken over; ``name`` is "" or, of ImageNet-C, corruption/severity."""

    name: str
    images: tuple[Answered, ...]


@dataclass(frozen=True)
class Benchmark:
    """A test set: how to find its images below the folder that was downloaded, and which classes may be answered."""

    title: str
    find: Callable[[Path], list[Part]]
    classes: Callable[[], Sequence[str]]
    """WordNet ids that the answer is chosen among: -R and -A have 200 of the 1,000."""
    images: int
    """How many it was published with, and its scores are over."""


def synsets(subset: str = "imagenet") -> tuple[str, ...]:
    """WordNet ids in the order of class indices: ``imagenet``'s 1,000, ``imagenet_a``'s or ``imagenet_r``'s 200."""
    return tuple(_packaged(f"{subset}_synsets.txt").split())


def _packaged(name: str) -> str:
    """A file of timm's tables of ImageNet, found without importing timm, which would import torch."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        raise DataError("timm is not installed")
    return (Path(spec.origin).parent / "data" / "_info" / name).read_text(encoding="utf-8")


def named_in_order(names: Sequence[str]) -> bool:
    """Whether ``names`` are English names of ImageNet's classes in their order, as the Hub's data set has them.

    Nearly all must begin as WordNet's do: some tables tell the two cranes and the two maillots apart.
    """
    lemmas = dict(line.split("\t") for line in _packaged("imagenet_synset_to_lemma.txt").splitlines())
    pairs = zip(names, map(lemmas.__getitem__, synsets()), strict=False)
    alike = sum(_first_word(name) == _first_word(lemma) for name, lemma in pairs)
    return len(names) == len(synsets()) and alike > 0.95 * len(names)


def _first_word(name: str) -> str:
    return name.partition(",")[0].strip().lower()


def of_class_folders(root: Path) -> list[Part]:
    """Images in folders named by WordNet ids."""
    return [Part("", _of_folders(_class_folders(root, synsets())))]


def of_numbered_folders(root: Path) -> list[Part]:
    """Images in folders named by class indices, 0 to 999 (ImageNet-V2)."""
    ids = synsets()
    folders = _class_folders(root, [str(index) for index in range(len(ids))])
    return [Part("", _of_folders({ids[int(name)]: folder for name, folder in folders.items()}))]


def of_corruptions(root: Path) -> list[Part]:
    """Images below corruption/severity/WordNet id, with or without the archives' folders (noise, blur, ...) around."""
    places = {name: next((place for place in _nearby(root, name)), None) for name in ALEXNET_ERRORS}
    missing = [name for name, place in places.items() if place is None]
    missing += [f"{n}/{s}" for n, place in places.items() if place for s in SEVERITIES if not (place / s).is_dir()]
    if missing:
        wanted = "the average is over 15 corruptions of 5 severities"
        raise UserError(f"source={root}: {wanted}; missing: {shortened(missing)}")
    return [
        Part(f"{name}/{severity}", _of_folders(_class_folders(place / severity, synsets())))
        for name, place in places.items()
        if place is not None
        for severity in SEVERITIES
    ]


def of_reassessed(root: Path) -> list[Part]:
    """ImageNet's validation images, anywhere below ``root``, with ReaL's labels: ``real.json`` there, or timm's copy.

    Images that ReaL gives no label are left out, as its authors do.
    """
    ids, labels = synsets(), _real_labels(root)
    images = [(_number(path), path) for path in images_below(root)]
    named = [f"{path}" for number, path in images if not 1 <= number <= len(labels)]
    if named or not images:
        what = f"{named[0]} is not called ILSVRC2012_val_00000001.JPEG or the like" if named else "no images"
        raise UserError(f"source={root}: {what}; ReaL labels ImageNet's validation images by their numbers")
    answered = (Answered(path, frozenset(ids[label] for label in labels[number - 1])) for number, path in images)
    return [Part("", tuple(item for item in answered if item.right))]


BENCHMARKS: Mapping[str, Benchmark] = {
    "imagenet-v2": Benchmark("ImageNet-V2", of_numbered_folders, synsets, 10_000),
    "imagenet-r": Benchmark("ImageNet-R", of_class_folders, lambda: synsets("imagenet_r"), 30_000),
    "imagenet-a": Benchmark("ImageNet-A", of_class_folders, lambda: synsets("imagenet_a"), 7_500),
    "imagenet-sketch": Benchmark("ImageNet-Sketch", of_class_folders, synsets, 50_889),
    "imagenet-real": Benchmark("ImageNet-ReaL", of_reassessed, synsets, 46_837),
    "imagenet-c": Benchmark("ImageNet-C", of_corruptions, synsets, 3_750_000),
}


def parts_of(name: str, root: Path) -> list[Part]:
    """The images of the benchmark called ``name`` below ``root``. Raises ``UserError`` where they are not there."""
    if not root.is_dir():
        raise UserError(f"source={root}: no such folder")
    benchmark = BENCHMARKS[name]
    parts, allowed = benchmark.find(root), set(benchmark.classes())
    strange = sorted({synset for part in parts for image in part.images for synset in image.right - allowed})
    if strange:
        raise UserError(f"source={root}: {shortened(strange)}: no class of {benchmark.title}")
    empty = [part.name or benchmark.title for part in parts if not part.images]
    if empty:
        raise UserError(f"source={root}: no images of {shortened(empty)}")
    return parts


def _class_folders(root: Path, names: Iterable[str]) -> dict[str, Path]:
    """The folders directly below ``root``, or below the only folder in it, that are called like a class."""
    known = set(names)
    for place in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        folders = {path.name: path for path in sorted(place.iterdir()) if path.is_dir() and path.name in known}
        if folders:
            return folders
    raise UserError(f"source={root}: no folders called like classes, e.g. {min(known)}; name the folder they are in")


def _nearby(root: Path, name: str) -> Iterable[Path]:
    """The folder called ``name`` in ``root`` or in a folder of it."""
    return (path for path in (root / name, *sorted(root.glob(f"*/{name}"))) if path.is_dir())


def _of_folders(folders: Mapping[str, Path]) -> tuple[Answered, ...]:
    right = {synset: frozenset({synset}) for synset in folders}  # ImageNet-C has millions of images
    return tuple(Answered(path, right[synset]) for synset, folder in folders.items() for path in images_in(folder))


def _real_labels(root: Path) -> list[list[int]]:
    own = root / "real.json"
    try:
        labels = read_json(own) if own.is_file() else json.loads(_packaged("imagenet_real_labels.json"))
    except (OSError, ValueError) as error:
        raise DataError(f"{own}: cannot be read: {error}") from error
    if len(labels) != VALIDATION_IMAGES:
        raise DataError(f"{own}: has labels of {len(labels)} images, not of {VALIDATION_IMAGES}")
    found: list[list[int]] = labels
    return found


def _number(path: Path) -> int:
    """The number of a validation image of ImageNet, by its name; 0 of anything else."""
    match = re.fullmatch(r"ILSVRC2012_val_(\d{8})", path.stem)
    return int(match[1]) if match else 0
