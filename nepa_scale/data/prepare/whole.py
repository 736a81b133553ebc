"""Writing a small data set in one go by one process: whole or not at all, and with the same bytes every time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, cast

from nepa_scale.data.decode import decode_rgb
from nepa_scale.data.info import INFO_NAME, STATISTICS
from nepa_scale.data.prepare.finishing import finish
from nepa_scale.data.prepare.pixel_sums import PixelSums
from nepa_scale.data.prepare.tar_writer import Members, write_tar
from nepa_scale.data.reporting import Report
from nepa_scale.data.shard_index import IMAGE_EXTENSIONS
from nepa_scale.utils.errors import DataError
from nepa_scale.utils.files import read_json


def is_written(root: Path, info: Mapping[str, Any]) -> bool:
    """Tell whether the data set of ``info`` is there. Raises ``DataError`` if another has its place."""
    folder = root / info["name"]
    if not folder.exists():
        return False
    with suppress(OSError, ValueError, AttributeError):
        there = read_json(folder / INFO_NAME)
        if {key: value for key, value in there.items() if key not in STATISTICS} == info:
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
    if is_written(root, info):
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
            if is_written(root, info):  # another process was faster
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
