"""What a data set holds: its table of contents, ``_info.json``, and the facts known of data sets that are not on disk.

The contents of the embedded set and the counts of published sets are known beforehand. The user's folder adds others
(``data_sets`` in its ``nepa.yaml``): a folder outside ``data.root``, facts for plans without data, or both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from nepa_scale.data.preprocessing import LEAST_STD, MEAN, Channels
from nepa_scale.utils import user_folder
from nepa_scale.utils.errors import DataError, nearest
from nepa_scale.utils.files import expand_home

INFO_NAME = "_info.json"
SPLITS = ("train", "validation")
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


NEEDED, OPTIONAL = ("train", "validation"), ("classes", "mask_classes")
FACTS = (*NEEDED, *OPTIONAL)
FOLDER = "folder"
MOST_IMAGES = 10**12

Facts = Mapping[str, int]
"""Of one data set: ``train`` and ``validation`` images, ``classes`` and ``mask_classes``."""

#: ImageNet-1k (Russakovsky et al. 2015) and ADE20K's scene parsing benchmark (Zhou et al. 2017), by the names that the
#: studies use.
SHIPPED: Mapping[str, Facts] = {
    "imagenet-1k-wds": {"train": 1_281_167, "validation": 50_000, "classes": 1000},
    "ade20k": {"train": 20_210, "validation": 2_000, "mask_classes": 150},
}


def known_facts() -> dict[str, Facts]:
    """The facts of the shipped and of the user's data sets. Raises ``ConfigError`` for a wrong ``nepa.yaml``."""
    own = {str(name): {key: given[key] for key in FACTS if key in given} for name, given in _own().items()}
    return {**SHIPPED, **{name: stated for name, stated in own.items() if stated}}


def folders() -> dict[str, Path]:
    """The folders that the user's data sets have outside ``data.root``; relative ones start from the user's folder."""
    given = {str(name): each[FOLDER] for name, each in _own().items() if FOLDER in each}
    base = user_folder.folder() if given else None
    return {name: (base or Path()) / expand_home(path) for name, path in given.items()}


def folder_of(root: Path, name: str) -> Path:
    """The folder of the data set ``name``: ``root/name``, unless the user's folder says another."""
    return folders().get(name, root / name)


def fact_problems(name: str, given: Mapping[Any, Any]) -> Iterator[tuple[str, str]]:
    """(key, problem) of what is wrong with the facts of one data set."""
    unknown = [key for key in given if key not in FACTS]
    for key in unknown:
        listed = ", ".join(FACTS)
        yield f"{name}.{key}", f"{name}: unknown fact '{key}'{nearest(str(key), FACTS)} (there are: {listed})"
    yield from ((str(name), f"{name}: {key} is missing") for key in NEEDED if not unknown and key not in given)
    for key, least, most in (
        *((key, 1, MOST_IMAGES) for key in NEEDED),
        *((key, 0, MAX_CLASSES) for key in OPTIONAL),
    ):
        value = given.get(key, least)
        if type(value) is not int or not least <= value <= most:
            yield f"{name}.{key}", f"{name}: {key} must be a whole number from {least} to {most:,}, is {value!r}"


def _problems(content: Mapping[Any, Any]) -> Iterable[tuple[str, str]]:
    """What is wrong with the data sets of a user's folder."""
    for name, given in content.items():
        shipped = name in (*SHIPPED, EMBEDDED_NAME)
        if shipped or str(name) != Path(str(name)).name:
            reason = "the name of a shipped data set" if shipped else "no name of a folder"
            yield str(name), f"{name}: {reason}; choose another"
        stated = {key: value for key, value in given.items() if key != FOLDER}
        if stated or FOLDER not in given:
            yield from fact_problems(str(name), stated)
        if not isinstance(given.get(FOLDER, ""), str):
            yield f"{name}.{FOLDER}", f"{name}: {FOLDER}={given[FOLDER]!r}: expected a path"


_own = user_folder.section("data_sets", _problems)
