"""Files of data sets: what their names tell (of a source, how to prepare it), texts in any encoding, retried reads.

Disks, and network file systems more so, may be slow or gone for a moment. Standard library only.
"""

from __future__ import annotations

import codecs
import os
import re
import shlex
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from nepa_scale.utils.errors import NAMES_SHOWN, DataError, shortened

RETRY_SECONDS = (0.1, 1.0, 5.0)  # waits between attempts; then the storage counts as lost
OPEN_FILES = 64  # twice the window of shards that an epoch's order reads from at a time
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)  # of the formats that decode.py reads
_SYSTEM_FOLDERS = frozenset(
    {"__macosx", "@eadir", "@__thumb", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "__pycache__"}
    | {"lost+found", "system volume information"}
)  # of macOS, network disks, Windows, Python and file systems
_SPLIT = re.compile(r"(?<![a-z])(train|training|val|valid|validation)(?![a-z])", re.IGNORECASE)
_COMPRESSED = re.compile(r"\.(tgz|tar\.(gz|bz2|xz|zst|lz4))$")
_PART = re.compile(r"(?<!\d)(\d+)[-_]of[-_](\d+)(?!\d)", re.IGNORECASE)
_NUMBER = re.compile(r"(.*?)(\d+)(\D*)")


def is_image(name: str) -> bool:
    """Whether a file is an image by its extension, in small or capital letters."""
    return name.lower().endswith(tuple(IMAGE_SUFFIXES))


def is_clutter(name: str) -> bool:
    """Whether a file or folder, by its own name without folders, is hidden or made by a system for itself."""
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS


def images_in(folder: Path) -> list[Path]:
    """The image files directly in ``folder``, by name, without hidden ones."""
    return sorted(path for path in folder.iterdir() if is_image(path.name) and not is_clutter(path.name))


def images_below(folder: Path) -> list[Path]:
    """The image files in ``folder`` and below, by path, without hidden ones and those in folders of systems."""
    files = (path for path in sorted(folder.rglob("*")) if is_image(path.name) and path.is_file())
    return [path for path in files if not any(map(is_clutter, path.relative_to(folder).parts))]


def compressed_shards(folder: Path) -> str | None:
    """The line that says what to do with shards such as ``train-0.tar.gz``, if there are any in ``folder``."""
    packed = sorted(path.name for path in folder.glob("*.t*") if _COMPRESSED.search(path.name.lower()))
    if not packed:
        return None
    return (
        f"'{folder}' holds compressed shards, in which no sample can be found by its place: {shortened(packed)}; "
        "unpack them to .tar, as with gunzip (images are compressed already, so that hardly takes more room)"
    )


def splits_of(name: str) -> set[str]:
    """The splits, "train" and "validation", that a name speaks of."""
    return {"train" if word.startswith("train") else "validation" for word in split_words(name)}


def split_words(name: str) -> set[str]:
    """The words for splits in a name, in small letters, such as "val" and "valid"."""
    return {word.lower() for word in _SPLIT.findall(name)}


def states_part(name: str) -> bool:
    """Whether a name holds a part and how many there are, such as ``train-00000-of-00003-1359597a978bc4fa``."""
    return _PART.search(name) is not None


def part_problems(names: Iterable[str], where: str) -> list[str]:
    """Compare names such as train-00000-of-00294 with the number of parts that they state; one line for each fault.

    What follows the number is ignored: ``push_to_hub`` writes a hash there.
    """
    series: dict[str, dict[str, tuple[int, int]]] = {}
    for name in names:
        if found := _PART.search(name):
            series.setdefault(name[: found.start()], {})[name] = int(found[1]), int(found[2])
    return [problem for prefix, parts in series.items() for problem in _series_problems(prefix, parts, where)]


def _series_problems(prefix: str, parts: dict[str, tuple[int, int]], where: str) -> list[str]:
    totals = {total for _, total in parts.values()}
    if len(totals) > 1:
        several = ", ".join(map(str, sorted(totals)))
        return [f"{where}: '{prefix}*' are parts of several sets, of {several} files: keep those of one"]
    (total,) = totals
    counts = Counter(number for number, _ in parts.values())
    problems = []
    if twice := [name for name, (number, _) in parts.items() if counts[number] > 1]:
        problems.append(f"{where}: the same part several times: {shortened(twice)}")
    first = 0 if 0 in counts or max(counts) < total else 1  # some number their files from 1
    expected = range(first, first + total)
    present = sum(number in expected for number in counts)
    if present < total:
        missing = islice((number for number in expected if number not in counts), NAMES_SHOWN)
        more = " ..." if total - present > NAMES_SHOWN else ""
        problems.append(
            f"{where} has {present} of {total} files '{prefix}*': missing {', '.join(map(str, missing))}{more}"
        )
    if beyond := [name for name, (number, _) in parts.items() if number not in expected]:
        problems.append(f"{where}: no part of {total}: {shortened(beyond)}")
    return problems


def gaps(names: Iterable[str], *, from_start: bool = False) -> list[str]:
    """Names that would fill the gaps between files that are numbered in a row; the first few of each row.

    With ``from_start`` rows begin at 0 or 1.
    """
    rows: dict[tuple[str, str], dict[int, int]] = {}
    for name in names:
        if (found := _NUMBER.fullmatch(name)) and not states_part(name):
            rows.setdefault((found[1], found[3]), {})[int(found[2])] = len(found[2])
    missing = []
    for (before, after), widths in rows.items():
        numbers = sorted(widths)
        holes = [range(low + 1, high) for low, high in pairwise(numbers)]
        if from_start and numbers[0] > 1:
            holes.insert(0, range(numbers[0]))
        few = islice((number for hole in holes for number in hole), NAMES_SHOWN + 1)
        missing += [f"{before}{number:0{min(widths.values())}d}{after}" for number in few]
    return missing


def read_text(path: Path) -> str:
    """The content of a file as ``decode_text`` reads it. Raises ``DataError`` if it cannot be read."""
    try:
        return decode_text(path.read_bytes())
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror}") from None


def decode_text(content: bytes) -> str:
    """Text in UTF-8, or in UTF-16 with a byte-order mark, or else in Latin-1, which any bytes are; without the mark."""
    with suppress(UnicodeDecodeError):
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return content.decode("utf-16")
        return content.decode("utf-8-sig")
    return content.decode("latin-1")


class RetryingReader:
    """Parts of files, by offset. A few files stay open; can be pickled and used in any number of processes."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, int] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"_open": OrderedDict()}

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def read(self, path: Path, offset: int, size: int) -> bytes:
        """Return ``size`` bytes at ``offset``. Raises ``DataError`` if they cannot be had after some attempts."""
        content = _with_retries(lambda: os.pread(self._descriptor(path), size, offset), path, self._forget)
        if len(content) != size:
            raise DataError(f"'{path}' became shorter while in use")
        return content

    def _descriptor(self, path: Path) -> int:
        if path not in self._open:
            self._open[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if len(self._open) > OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(path)
        return self._open[path]

    def _forget(self, path: Path) -> None:
        if path in self._open:
            os.close(self._open.pop(path))


def read_with_retries(path: Path) -> bytes:
    """Return a file's content. Raises ``DataError`` if it cannot be had after some attempts."""
    return _with_retries(path.read_bytes, path, lambda _: None)


def _with_retries(read: Callable[[], bytes], path: Path, forget: Callable[[Path], None]) -> bytes:
    """Try to read until it works; ``forget`` drops what is open, for a stale handle stays stale."""
    waits = iter(RETRY_SECONDS)
    while True:
        try:
            return read()
        except OSError as error:
            forget(path)
            if (wait := next(waits, None)) is None:
                attempts, seconds = len(RETRY_SECONDS) + 1, sum(RETRY_SECONDS)
                reason = f"{error.strerror}, {attempts} times in {seconds:g} s"
                raise DataError(f"'{path}' cannot be read: {reason}") from None
            time.sleep(wait)


#: What lies in a source of each kind that ``nepa_scale.data.prepare`` reads.
_SIGNS = (
    ("imagenet", ("ILSVRC2012_img_train.tar", "ILSVRC/Data/CLS-LOC", "*/ILSVRC/Data/CLS-LOC")),
    ("tiny-imagenet", ("val/val_annotations.txt", "tiny-imagenet-200/val/val_annotations.txt")),
    ("ade20k", ("ADEChallengeData2016.zip", "images/training", "ADEChallengeData2016/images/training")),
    ("cityscapes", ("leftImg8bit/train", "*/leftImg8bit/train")),
    ("voc", ("ImageSets/Segmentation", "VOC2012/ImageSets/Segmentation", "*/VOC2012/ImageSets/Segmentation")),
    ("coco-stuff", ("stuffthingmaps/train2017",)),
    ("parquet", ("*.parquet", "data/*.parquet", "*/train/*.parquet", "dataset_dict.json", "state.json")),
)


def prepare_command(kind: str, **settings: str | Path) -> str:
    """The line that prepares, for a shell: names with spaces and the like are quoted."""
    words = [f"{key}={value}" for key, value in settings.items()]
    return shlex.join(["python", "-m", "nepa_scale.data.prepare", kind, *words])


def source_kind(source: Path) -> str | None:
    """The kind of source that a folder is by the names in it, if it is one."""
    for kind, patterns in _SIGNS:
        if any(next(source.glob(pattern), None) for pattern in patterns):
            return kind
    if _has_folders(source / "train"):
        return "folder"
    is_flat = source.is_dir() and any(is_image(path.name) and not is_clutter(path.name) for path in source.iterdir())
    return "images" if is_flat else None


def how_to_prepare(source: Path, root: Path) -> tuple[str, str] | None:
    """The command that makes a data set in ``root`` of a source, and the set's name; None for another folder."""
    kind = source_kind(source)
    if kind is None:
        return None
    name = f"{source.resolve().name.lstrip('.') or 'data'}-shards"
    command = prepare_command(kind, source=source, root=root, name=name)
    splits = ("val", "valid", "validation")
    if kind == "images" or (kind == "folder" and not any(_has_folders(source / split) for split in splits)):
        command += " val_fraction=0.1"
    return command, name


def _has_folders(folder: Path) -> bool:
    return folder.is_dir() and any(child.is_dir() for child in folder.iterdir())
