"""Command: write a data set as shards. ``python -m nepa_scale.data.prepare KIND key=value ...``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TaskID

from nepa_scale.data import embedded
from nepa_scale.data.writing import Report, write_dataset
from nepa_scale.errors import ConfigError, UserError, nearest
from nepa_scale.overrides import split_words


@dataclass(frozen=True)
class DigitSettings:
    """scenes of scikit-learn's handwritten digits, with classes and masks (nothing is downloaded)"""

    root: Path = field(default=Path(embedded.DEFAULT_ROOT), metadata={"meaning": "folder of all data sets"})
    num_train: int = field(default=embedded.NUM_TRAIN, metadata={"meaning": "training images"})
    num_validation: int = field(default=embedded.NUM_VALIDATION, metadata={"meaning": "validation images"})
    image_size: int = field(default=embedded.IMAGE_SIZE, metadata={"meaning": "height and width in pixels"})
    seed: int = field(default=0, metadata={"meaning": "of the composition"})
    shard_size: int = field(default=embedded.SHARD_SIZE, metadata={"meaning": "images in a shard"})


@dataclass(frozen=True)
class FolderSettings:
    """class folders: source/train/<class>/*.jpg and source/{validation,val}/<class>/*.jpg"""

    source: Path = field(metadata={"meaning": "folder to read"})
    root: Path = field(metadata={"meaning": "folder of all data sets"})
    name: str = field(metadata={"meaning": "name of the new data set"})
    shard_size: int = field(default=1000, metadata={"meaning": "images in a shard"})


@dataclass(frozen=True)
class Ade20kSettings(FolderSettings):
    """an ADE20K folder: images/{training,validation}/*.jpg and annotations/{training,validation}/*.png"""


Settings = DigitSettings | FolderSettings
KINDS: dict[str, type[Settings]] = {
    "digits": DigitSettings,
    "folder": FolderSettings,
    "ade20k": Ade20kSettings,
}
_LEAST = {"image_size": 16, "seed": 0}  # other numbers count something and start at 1


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    if {"--help", "-h"} & set(words):
        print(help_text())
        return 0
    try:
        print(prepare(parse(words)))
    except UserError as error:
        print("\n".join(f"error: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing was left behind", file=sys.stderr)
        return 130
    return 0


def help_text() -> str:
    """Describe every kind of data set and its keys."""
    lines = [
        "usage: python -m nepa_scale.data.prepare KIND key=value ...",
        "",
        "Write root/name as shards. Kinds:",
    ]
    for kind, settings in KINDS.items():
        lines += ["", f"{kind}: {settings.__doc__}"]
        lines += [f"  {_shown(entry):<24} {entry.metadata['meaning']}" for entry in fields(settings)]
    return "\n".join(lines)


def _shown(entry: Field[Any]) -> str:
    return f"{entry.name}=" if entry.default is MISSING else f"{entry.name}={entry.default}"


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


def _value(entry: Field[Any], text: str, problems: list[str]) -> int | str | Path | None:
    """Convert the text of one setting, or note what is wrong with it."""
    if entry.type == "int":
        least = _LEAST.get(entry.name, 1)
        if text.isdecimal() and int(text) >= least:
            return int(text)
        problems.append(f"{entry.name}={text}: expected a whole number of at least {least}")
        return None
    if not text:
        problems.append(f"{entry.name}= needs a value: {entry.metadata['meaning']}")
    if entry.name == "name" and (text != Path(text).name or text.startswith(".")):
        problems.append(f"name={text}: expected the name of a folder to be made in root")
    return Path(text) if entry.type == "Path" else text


def prepare(settings: Settings) -> str:
    """Write the data set unless it is there. Returns the line that says which; raises ``DataError``."""
    # imported here, because --help and complaints need no numpy
    from nepa_scale.data import converting, digits

    with reporting() as report:
        if isinstance(settings, DigitSettings):
            folder = settings.root / embedded.EMBEDDED_NAME
            written = digits.write_digits(**asdict(settings), report=report)
        else:
            folder = settings.root / settings.name
            is_ade20k = isinstance(settings, Ade20kSettings)
            convert = converting.ade20k_folder if is_ade20k else converting.class_folders
            info, samples = convert(settings.source, settings.name, settings.shard_size)
            written = write_dataset(settings.root, info, samples, report)
    return f"{folder}: written" if written else f"{folder}: already there, nothing to do"


@contextmanager
def reporting() -> Iterator[Report]:
    """Give a function that shows progress: bars on a terminal, plain lines elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda split, done, total: print(f"{split}: {done} of {total} images", flush=True)
        return
    with Progress(console=console) as progress:
        bars: dict[str, TaskID] = {}

        def advance(split: str, done: int, total: int) -> None:
            if split not in bars:
                bars[split] = progress.add_task(split, total=total)
            progress.update(bars[split], completed=done)

        yield advance


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that clean-up happens
    sys.exit(main(sys.argv[1:]))
