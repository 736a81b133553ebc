"""The table of contents of a data set, ``_info.json``: read, checked and made; the embedded set's is known beforehand.

Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from nepa_scale.data.preprocessing import LEAST_STD, MEAN, Channels
from nepa_scale.utils.errors import DataError

INFO_NAME = "_info.json"
SPLITS = ("train", "validation")
STATISTICS = ("mean", "std")  # of the training images, which prepare measures
MAX_CLASSES = 1_000_000  # more is no number of classes but some other number
REMOTE_SCHEMES = ("http", "https", "gs", "hf")

# webdataset hands a URL to programs, in some of its versions through a shell, and has schemes that are commands
# (`pipe:`): only these schemes, and only letters that mean nothing to a shell, curl or gsutil.
_LETTERS = r"[A-Za-z0-9._~/:%+-]*"
_REMOTE_URL = re.compile(rf"(?:{'|'.join(REMOTE_SCHEMES)})://[A-Za-z0-9]{_LETTERS}")
EMBEDDED_NAME = "digits"
DEFAULT_ROOT = "data"  # the only root it is written under on demand
NUM_TRAIN = 4096
NUM_VALIDATION = 1024
IMAGE_SIZE = 32
SHARD_SIZE = 1024
DIGITS = tuple(str(digit) for digit in range(10))


@dataclass(frozen=True)
class SplitInfo:
    """One split: its samples and, for shards, the file names with the number of samples in each."""

    num_samples: int
    filenames: tuple[str, ...] = ()
    shard_lengths: tuple[int, ...] = ()


@dataclass(frozen=True)
class DatasetInfo:
    """What a data set holds. ``num_classes`` 0 means no labels, empty ``mask_class_names`` means no masks."""

    name: str
    num_classes: int
    class_names: tuple[str, ...]
    mask_class_names: tuple[str, ...]
    splits: Mapping[str, SplitInfo]
    url: str | None = None
    """where the shards lie, if not beside ``_info.json``"""
    mean: Channels | None = None
    """of each channel of the training images, in 0..1, if it was measured"""
    std: Channels | None = None
    """their deviation from it"""


def make_info(
    name: str,
    *,
    split_sizes: Mapping[str, int],
    shard_size: int,
    class_names: Sequence[str] = (),
    mask_class_names: Sequence[str] = (),
    **notes: Any,
) -> dict[str, Any]:
    """Return the content of ``_info.json`` for a data set cut into shards of ``shard_size`` samples.

    ``notes`` are further facts kept in the file, for example the seed it was made with.
    """
    info: dict[str, Any] = {"name": name, "num_classes": len(class_names), "class_names": list(class_names)}
    if mask_class_names:
        info["mask_class_names"] = list(mask_class_names)
    info |= notes
    info["splits"] = {split: _make_split(split, size, shard_size) for split, size in split_sizes.items()}
    return info


def _make_split(split: str, num_samples: int, shard_size: int) -> dict[str, Any]:
    starts = range(0, num_samples, shard_size)
    lengths = (min(shard_size, num_samples - start) for start in starts)
    return split_content(split, {f"{split}-{shard:06d}.tar": length for shard, length in enumerate(lengths)})


def split_content(split: str, shard_lengths: Mapping[str, int]) -> dict[str, Any]:
    """The entry of a split in ``_info.json``, from the samples of each of its shards by file name."""
    return {
        "name": split,
        "num_samples": sum(shard_lengths.values()),
        "filenames": list(shard_lengths),
        "shard_lengths": list(shard_lengths.values()),
    }


def parse_info(content: Any, name: str) -> DatasetInfo:
    """Check the parsed JSON of ``_info.json`` and return it typed; keys not known here are ignored.

    Raises ``DataError`` with every problem, one per line.
    """
    if not isinstance(content, dict):
        raise DataError(f"{name}/{INFO_NAME}: must be a JSON object, is {type(content).__name__}")
    problems: list[str] = []
    class_names = _names(content, "class_names", problems)
    mask_class_names = _names(content, "mask_class_names", problems)
    num_classes = content.get("num_classes", len(class_names))
    if not _is_count(num_classes):
        problems.append(f"num_classes must be a whole number >= 0, is {num_classes!r}")
    elif num_classes > MAX_CLASSES:
        problems.append(f"num_classes is {num_classes:,}, more than the {MAX_CLASSES:,} allowed")
    elif class_names and len(class_names) != num_classes:
        problems.append(f"num_classes is {num_classes}, but class_names has {len(class_names)} names")
    splits = _parse_splits(content.get("splits"), problems)
    url = content.get("url")
    if url is not None:
        problems += _url_problems(url, splits)
    if problems:
        raise DataError("\n".join(f"{name}/{INFO_NAME}: {problem}" for problem in problems))
    return DatasetInfo(name, num_classes, class_names, mask_class_names, splits, url, *_statistics(content))


def _statistics(content: Mapping[str, Any]) -> tuple[Channels | None, Channels | None]:
    """Mean and deviation where both are three numbers that images can have; else neither, as if not measured."""
    limits = {"mean": 0.0, "std": LEAST_STD}
    statistics = []
    for key, least in limits.items():
        values = content.get(key)
        if not isinstance(values, list) or len(values) != len(MEAN):
            return None, None
        if not all(type(value) in (int, float) and least <= value <= 1 for value in values):
            return None, None
        statistics.append(tuple(map(float, values)))
    return statistics[0], statistics[1]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _names(content: Mapping[str, Any], key: str, problems: list[str]) -> tuple[str, ...]:
    names = content.get(key, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        problems.append(f"{key} must be a list of names")
        return ()
    return tuple(names)


def _parse_splits(splits: object, problems: list[str]) -> dict[str, SplitInfo]:
    if not isinstance(splits, dict):
        problems.append("splits must be an object with 'train' and 'validation'")
        return {}
    problems += [f"splits has no '{split}'" for split in SPLITS if split not in splits]
    parsed = {split: _parse_split(split, splits[split], problems) for split in SPLITS if split in splits}
    return {split: info for split, info in parsed.items() if info is not None}


def _parse_split(split: str, content: object, problems: list[str]) -> SplitInfo | None:
    """Return the split, or note what is wrong with it."""
    if not isinstance(content, dict):
        problems.append(f"splits.{split} must be an object")
        return None
    filenames, lengths = content.get("filenames"), content.get("shard_lengths")
    if not isinstance(filenames, list) or not all(_is_plain_name(name) for name in filenames):
        problems.append(f"splits.{split}.filenames must be a list of .tar file names, uncompressed, without folders")
    elif not isinstance(lengths, list) or not all(_is_count(length) for length in lengths):
        problems.append(f"splits.{split}.shard_lengths must be a list of whole numbers")
    elif len(filenames) != len(lengths):
        problems.append(f"splits.{split} has {len(filenames)} filenames, but {len(lengths)} shard_lengths")
    elif content.get("num_samples") != sum(lengths):
        stated = content.get("num_samples")
        problems.append(f"splits.{split}.num_samples is {stated}, but shard_lengths add up to {sum(lengths)}")
    elif not sum(lengths):
        problems.append(f"splits.{split} is empty")
    else:
        return SplitInfo(sum(lengths), tuple(filenames), tuple(lengths))
    return None


def _is_plain_name(name: object) -> bool:
    """Refuse folders, URLs and shell pipes: a shard lies beside its ``_info.json``."""
    return isinstance(name, str) and name.endswith(".tar") and PurePath(name).name == name and ":" not in name


def _url_problems(url: object, splits: Mapping[str, SplitInfo]) -> list[str]:
    schemes = ", ".join(f"{scheme}://" for scheme in REMOTE_SCHEMES)
    if not isinstance(url, str) or not _REMOTE_URL.fullmatch(url):
        return [f"url is {url!r}, but must begin with one of {schemes} and hold letters, digits and ._~/:%+- only"]
    names = [name for split in splits.values() for name in split.filenames if not re.fullmatch(_LETTERS, name)]
    return [f"file name {names[0]!r} of remote shards may hold letters, digits and ._~%+- only"] if names else []


def embedded_content(
    *,
    num_train: int = NUM_TRAIN,
    num_validation: int = NUM_VALIDATION,
    image_size: int = IMAGE_SIZE,
    seed: int = 0,
    shard_size: int = SHARD_SIZE,
) -> dict[str, Any]:
    """Return the ``_info.json`` content of the digit scenes made with these settings."""
    return make_info(
        EMBEDDED_NAME,
        split_sizes={"train": num_train, "validation": num_validation},
        shard_size=shard_size,
        class_names=DIGITS,
        mask_class_names=("background", *DIGITS),
        image_size=image_size,
        seed=seed,
        version=1,  # raised whenever the same settings give other images
    )


def embedded_info() -> DatasetInfo:
    """Return what the embedded data set holds by default."""
    return parse_info(embedded_content(), EMBEDDED_NAME)


def embedded_class_sizes() -> list[int]:
    """Return how many training scenes each digit names by default: they take turns."""
    return [len(range(digit, NUM_TRAIN, len(DIGITS))) for digit in range(len(DIGITS))]
