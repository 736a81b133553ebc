"""Completes a folder of shards with ``_info.json``, ``SHA256SUMS`` and an index; writes small data sets at once."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, cast

from nepa_scale.data.decode import decode_rgb
from nepa_scale.data.file_io import read_text
from nepa_scale.data.index import INDEX_FOLDER, write_index
from nepa_scale.data.info import INFO_NAME, SPLITS, parse_info, split_content
from nepa_scale.data.prepare.pixels import PixelSums, total
from nepa_scale.data.prepare.shard import ShardResult
from nepa_scale.data.shard_index import IMAGE_EXTENSIONS, Members, write_tar
from nepa_scale.utils.errors import DataError, nearest
from nepa_scale.utils.files import read_json, write_atomically, write_json
from nepa_scale.utils.progress import Report

SUMS_NAME = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\0]+)")


def existing_folder(root: Path, name: str) -> Path:
    """The folder ``root/name``. Raises ``DataError`` with the nearest name if there is none."""
    if (root / name).is_dir():
        return root / name
    names = [path.name for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    raise DataError(f"'{root / name}' is no folder{nearest(name, names)}")


def finish(folder: Path, info: Mapping[str, Any], sums: Mapping[str, str], report: Report | None) -> None:
    """Complete a folder of shards whose digests are known. Raises ``DataError``."""
    write_json(folder / INFO_NAME, info)
    write_sums(folder, {**sums, INFO_NAME: sum_of(folder / INFO_NAME)})
    write_index(folder, parse_info(info, info["name"]), folder / INDEX_FOLDER, report=report)


def describe(shards: Mapping[str, Sequence[ShardResult]]) -> dict[str, Any]:
    """The ``splits`` of ``_info.json`` for shards that were written. Raises ``DataError`` if a split has no images."""
    lengths = {split: {shard.filename: shard.length for shard in shards[split] if shard.length} for split in SPLITS}
    for split, found in lengths.items():
        if not found:
            raise DataError(f"no image of the {split} split can be used")
    return {split: split_content(split, found) for split, found in lengths.items()}


def describe_pixels(shards: Sequence[ShardResult]) -> dict[str, Any]:
    """``mean`` and ``std`` of ``_info.json``; none where an earlier version wrote some of the shards unmeasured."""
    if any(shard.length and not shard.sums.pixels for shard in shards):
        return {}
    return total(shard.sums for shard in shards).as_json()


def write_sums(folder: Path, sums: Mapping[str, str]) -> None:
    """Write the digests of files in ``folder``, so that ``sha256sum -c SHA256SUMS`` checks them."""
    write_atomically(folder / SUMS_NAME, "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))


def read_sums(folder: Path) -> dict[str, str] | None:
    """The digest of every file listed, or None where there is no list. Raises ``DataError`` for a line that is none."""
    path = folder / SUMS_NAME
    if not path.exists():
        return None
    matches = [_LINE.fullmatch(line) for line in read_text(path).splitlines()]
    for number, match in enumerate(matches, start=1):
        if not match:
            raise DataError(f"'{path}', line {number}: expected a SHA-256 and a file name")
    return {match[2]: match[1] for match in matches if match}


def sum_of(path: Path) -> str:
    """The digest of a file. Raises ``OSError``."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_written(folder: Path, facts: Mapping[str, Any]) -> bool:
    """Tell whether ``folder`` is a data set of these ``facts``. Raises ``DataError`` if another has its place."""
    if not folder.exists():
        return False
    with suppress(OSError, ValueError, AttributeError):
        if read_json(folder / INFO_NAME).items() >= facts.items():  # it also has what was measured
            return True
    raise DataError(f"'{folder}' exists and is not the data set asked for: remove it, or choose another root or name")


def write_dataset(
    root: Path,
    info: Mapping[str, Any],
    samples: Mapping[str, Iterable[Members]],
    report: Report | None = None,
) -> bool:
    """Write ``root/<name>`` with the shards that ``info`` lists; return False if it was already there.

    ``samples`` gives each split's samples in order, with ``__key__`` and the content of every extension.
    ``report(what, done, total)`` is called after each shard. Everything goes to a
    temporary folder that is renamed at the end; of several processes writing at once the first wins. Raises
    ``DataError``; whatever is raised, nothing is left behind.
    """
    if is_written(root / info["name"], info):
        return False
    with _temporary_folder(root) as folder:
        sums: dict[str, str] = {}
        pixels = PixelSums()
        for split, members in samples.items():
            seen = _measured(members, pixels) if split == "train" else iter(members)
            sums |= _write_split(folder, split, info["splits"][split], seen, report)
        finish(folder, {**info, **pixels.as_json()}, sums, report)
        try:
            folder.rename(root / info["name"])
        except OSError:
            if is_written(root / info["name"], info):  # another process was faster
                return False
            raise
    return True


def _measured(samples: Iterable[Members], pixels: PixelSums) -> Iterator[Members]:
    """The samples, whose images are counted on their way."""
    for sample in samples:
        image = next(content for name, content in sample.items() if name in IMAGE_EXTENSIONS)
        pixels.add(decode_rgb(cast(bytes, image)))
        yield sample


def _write_split(
    folder: Path, split: str, contents: Mapping[str, Any], samples: Iterator[Members], report: Report | None
) -> dict[str, str]:
    """Write the shards of a split; return their digests by file name."""
    sums, done = {}, 0
    for filename, length in zip(contents["filenames"], contents["shard_lengths"], strict=True):
        sums[filename] = write_tar(folder / filename, islice(samples, length))
        done += length
        if report:
            report(f"{split} images", done, contents["num_samples"])
    return sums


@contextmanager
def _temporary_folder(root: Path) -> Iterator[Path]:
    """Give a folder in ``root`` that vanishes unless renamed, and ``root`` too if it was made for this."""
    made = not root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=root) as temporary:
            folder = Path(temporary) / "dataset"  # the rename keeps this one's permissions, which follow the umask
            folder.mkdir()
            yield folder
    except OSError as error:
        raise DataError(f"cannot write the data set: {error.strerror} ('{error.filename or root}')") from None
    finally:
        if made:
            with suppress(OSError):  # not empty after success
                root.rmdir()
