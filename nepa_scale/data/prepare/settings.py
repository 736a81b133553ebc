"""The kinds of data set that can be prepared: their settings, the command line that states them, the signs of a source.

Standard library only.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from nepa_scale.data import info
from nepa_scale.utils.cli import out_of_range, split_words, to_text
from nepa_scale.utils.errors import ConfigError, nearest

MOST = 10**6  # images that are drawn, or lie in a shard
_SIGNS = (
    ("imagenet", ("ILSVRC2012_img_train.tar", "ILSVRC/Data/CLS-LOC", "*/ILSVRC/Data/CLS-LOC")),
    ("tiny-imagenet", ("val/val_annotations.txt", "tiny-imagenet-200/val/val_annotations.txt")),
    ("ade20k", ("ADEChallengeData2016.zip", "images/training", "ADEChallengeData2016/images/training")),
    ("parquet", ("*.parquet", "data/*.parquet", "*/train/*.parquet")),
)  # what lies in a source of each kind


@dataclass(frozen=True, kw_only=True)
class DigitSettings:
    """scenes of scikit-learn's handwritten digits, with classes and masks (nothing is downloaded)"""

    root: Path = field(default=Path(info.DEFAULT_ROOT), metadata={"meaning": "folder of all data sets"})
    num_train: int = field(default=info.NUM_TRAIN, metadata={"meaning": "training images", "high": MOST})
    num_validation: int = field(default=info.NUM_VALIDATION, metadata={"meaning": "validation images", "high": MOST})
    image_size: int = field(
        default=info.IMAGE_SIZE, metadata={"meaning": "height and width in pixels", "low": 16, "high": 1024}
    )
    seed: int = field(default=0, metadata={"meaning": "of the composition", "low": 0, "high": 2**32 - 1})
    shard_size: int = field(default=info.SHARD_SIZE, metadata={"meaning": "images in a shard", "high": MOST})


@dataclass(frozen=True, kw_only=True)
class PlaceSettings:
    """A data set that is there already."""

    root: Path = field(metadata={"meaning": "folder of all data sets"})
    name: str = field(metadata={"meaning": "name of the data set, a folder in root"})


@dataclass(frozen=True, kw_only=True)
class WritingSettings:
    """A source that becomes shards."""

    source: Path = field(metadata={"meaning": "folder or file to read"})
    root: Path = field(metadata={"meaning": "folder of all data sets"})
    name: str = field(metadata={"meaning": "name of the new data set"})
    shard_size: int = field(default=1000, metadata={"meaning": "images in a shard", "high": MOST})
    resize: int | None = field(
        default=None,
        metadata={"meaning": "shorter side in pixels; smaller images stay as they are", "low": 16, "high": 2**14},
    )
    workers: int | None = field(default=None, metadata={"meaning": "processes; null for one per core", "high": 1024})
    skip_bad: bool = field(default=False, metadata={"meaning": "leave out images that cannot be used"})


@dataclass(frozen=True, kw_only=True)
class DividedSettings(WritingSettings):
    """A source that may have no validation images."""

    val_fraction: float | None = field(
        default=None,
        metadata={
            "meaning": "without validation images: the part of each class's that becomes them",
            "above": 0,
            "high": 0.9,
        },
    )


@dataclass(frozen=True, kw_only=True)
class FolderSettings(DividedSettings):
    """class folders, also in a zip file: source/train/<class>/*.jpg and source/{validation,val,valid}/<class>/*.jpg"""


@dataclass(frozen=True, kw_only=True)
class ImagenetSettings(WritingSettings):
    """ILSVRC2012_img_{train,val}.tar and ILSVRC2012_devkit_t12.tar.gz, or Kaggle's ILSVRC/ with the LOC_* files"""


@dataclass(frozen=True, kw_only=True)
class TinyImagenetSettings(WritingSettings):
    """Tiny ImageNet: the folder tiny-imagenet-200 with train/, val/ and wnids.txt, or tiny-imagenet-200.zip"""


@dataclass(frozen=True, kw_only=True)
class ParquetSettings(DividedSettings):
    """Hugging Face parquet files: source/data/{train,validation}-*.parquet, default/train/0000.parquet and alike"""

    image_column: str | None = field(
        default=None, metadata={"meaning": "column of encoded images; null for image, or the only one there is"}
    )
    label_column: str | None = field(
        default=None, metadata={"meaning": "column of classes; null for label, or the only one there is"}
    )


@dataclass(frozen=True, kw_only=True)
class Ade20kSettings(WritingSettings):
    """ADE20K: images/ and annotations/ with {training,validation}/, as a folder or as ADEChallengeData2016.zip"""


@dataclass(frozen=True, kw_only=True)
class AdoptSettings(PlaceSettings):
    """shards in root/name as downloaded, such as timm/imagenet-1k-wds: adds _info.json, checksums and index"""

    workers: int | None = field(default=None, metadata={"meaning": "processes; null for one per core", "high": 1024})


@dataclass(frozen=True, kw_only=True)
class IndexSettings(PlaceSettings):
    """write the index of the data set root/name anew, after a shard was changed, or measure its images"""

    measure: bool = field(
        default=False, metadata={"meaning": "read all training images and put their mean and std into _info.json"}
    )
    workers: int | None = field(default=None, metadata={"meaning": "processes; null for one per core", "high": 1024})


@dataclass(frozen=True, kw_only=True)
class VerifySettings(PlaceSettings):
    """list every fault of the data set root/name; exit code 1 if there is one"""

    workers: int | None = field(default=None, metadata={"meaning": "processes; null for one per core", "high": 1024})


Settings = DigitSettings | WritingSettings | PlaceSettings
KINDS: dict[str, type[Settings]] = {
    "imagenet": ImagenetSettings,
    "tiny-imagenet": TinyImagenetSettings,
    "folder": FolderSettings,
    "parquet": ParquetSettings,
    "ade20k": Ade20kSettings,
    "digits": DigitSettings,
    "adopt": AdoptSettings,
    "index": IndexSettings,
    "verify": VerifySettings,
}


def kind_of(settings: Settings) -> str:
    """The word that chooses these settings."""
    return next(kind for kind, cls in KINDS.items() if type(settings) is cls)


def help_text() -> str:
    """Describe every kind and its keys."""
    lines = ["usage: python -m nepa_scale.data.prepare KIND key=value ...", "", "Kinds:"]
    for kind, settings in KINDS.items():
        lines += ["", f"{kind}: {settings.__doc__}"]
        lines += [f"  {_shown(entry):<24} {entry.metadata['meaning']}" for entry in fields(settings)]
    return "\n".join(lines)


def _shown(entry: Field[Any]) -> str:
    return f"{entry.name}=" if entry.default is MISSING else f"{entry.name}={to_text(entry.default)}"


def parse(words: Sequence[str]) -> Settings:
    """Turn ``KIND key=value ...`` into settings. Raises ``ConfigError`` with every problem."""
    kinds = ", ".join(KINDS)
    if not words:
        raise ConfigError([f"say what to prepare: {kinds} (--help lists their keys)"])
    kind = words[0]
    if kind not in KINDS:
        raise ConfigError([f"cannot prepare '{kind}'{nearest(kind, KINDS)} (possible: {kinds})"])
    entries = {entry.name: entry for entry in fields(KINDS[kind])}
    values: dict[str, Any] = {}
    problems: list[str] = []
    for key, text in split_words(words[1:]):
        if key not in entries:
            problems.append(f"unknown key '{key}'{nearest(key, entries)} (keys of {kind}: {', '.join(entries)})")
        else:
            values[key] = _value(entries[key], text, problems)
    required = [key for key, entry in entries.items() if entry.default is MISSING and key not in values]
    problems += [f"{key}= is missing: {entries[key].metadata['meaning']}" for key in required]
    if problems:
        raise ConfigError(problems)
    return KINDS[kind](**values)


def _value(entry: Field[Any], text: str, problems: list[str]) -> Any:
    """Convert the text of one setting, or note what is wrong with it."""
    kind = str(entry.type)
    if text == "null" and kind.endswith("| None"):
        return None
    if kind.startswith(("int", "float")):
        return _number(entry, text, problems)
    if kind == "bool":
        if text not in {"true", "false"}:
            problems.append(f"{entry.name}={text}: expected true or false")
        return text == "true"
    return _text_value(entry, text, problems)


def _number(entry: Field[Any], text: str, problems: list[str]) -> int | float | None:
    """The number that ``text`` is; what has no lower limit of its own counts something and starts at 1."""
    read: type[int | float]
    read, expected = (float, "a number") if str(entry.type).startswith("float") else (int, "a whole number")
    try:
        number = read(text)
    except ValueError:
        problems.append(f"{entry.name}={text}: expected {expected}")
        return None
    lowest: dict[str, int] = {} if "above" in entry.metadata else {"low": 1}
    problems += out_of_range(entry.name, number, {**lowest, **entry.metadata})
    return number


def _text_value(entry: Field[Any], text: str, problems: list[str]) -> str | Path:
    if not text:
        problems.append(f"{entry.name}= needs a value: {entry.metadata['meaning']}")
    elif "\0" in text:
        problems.append(f"{entry.name}= must not contain NUL")
    elif entry.name == "name" and (text != Path(text).name or text.startswith(".")):
        problems.append(f"name={text}: expected the name of a folder in root")
    return Path(text) if entry.type == "Path" else text


def prepare_command(kind: str, **settings: str | Path) -> str:
    """The line that prepares, for a shell: names with spaces and the like are quoted."""
    words = [f"{key}={value}" for key, value in settings.items()]
    return shlex.join(["python", "-m", "nepa_scale.data.prepare", kind, *words])


def source_kind(source: Path) -> str | None:
    """The kind of source that a folder is by the names in it, if it is one."""
    for kind, patterns in _SIGNS:
        if any(next(source.glob(pattern), None) for pattern in patterns):
            return kind
    return "folder" if _has_folders(source / "train") else None


def how_to_prepare(source: Path, root: Path) -> tuple[str, str] | None:
    """The command that makes a data set in ``root`` of a source, and the set's name; None for another folder."""
    kind = source_kind(source)
    if kind is None:
        return None
    name = f"{source.resolve().name.lstrip('.') or 'data'}-shards"
    command = prepare_command(kind, source=source, root=root, name=name)
    if kind == "folder" and not any(_has_folders(source / split) for split in ("val", "valid", "validation")):
        command += " val_fraction=0.1"
    return command, name


def _has_folders(folder: Path) -> bool:
    return folder.is_dir() and any(child.is_dir() for child in folder.iterdir())
