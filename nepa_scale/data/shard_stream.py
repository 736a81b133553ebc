"""The samples of shards from front to back, local or at a URL, through webdataset; nothing in them is executed.

webdataset takes a damaged header for the end of a shard and says nothing, so samples are counted here. Only images,
classes and masks are looked at, and they come as bytes: webdataset decodes nothing. Other members are logged once.
"""

from __future__ import annotations

import lzma
import re
import subprocess
import tarfile
import time
import zlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any

import torch

from nepa_scale.data.file_io import RETRY_SECONDS
from nepa_scale.data.info import DatasetInfo, folder_of
from nepa_scale.data.layout import access_problems, dataset_info
from nepa_scale.data.shard_index import (
    IMAGE_EXTENSIONS,
    LABEL_EXTENSION,
    MASK_EXTENSION,
    NO_LABEL,
    Unread,
    no_image,
    parse_label,
    printable,
    role_of,
    split_name,
    suggests_sample,
)
from nepa_scale.data.sources import Sample
from nepa_scale.utils.errors import DataError
from nepa_scale.utils.progress import logger

_KINDS = 256  # of members that are not read are distinguished
_DRAINED_BYTES = 2**20
_EXIT_SECONDS = 1.0
_UNREADABLE = (OSError, EOFError, ValueError, tarfile.TarError, zlib.error, lzma.LZMAError)


def open_stream(root: Path, name: str, split: str, *, allow_remote: bool) -> StreamSource:
    """Open ``split`` of the data set ``root/name`` for reading in order. Raises ``DataError`` if it cannot be."""
    if problems := access_problems(root, name, streaming=True, allow_remote=allow_remote):
        raise DataError("\n".join(problems))
    return StreamSource(folder_of(root, name), dataset_info(root, name), split)


class StreamSource:
    """The samples of one split, shard by shard. Labels and masks are checked when they are met."""

    def __init__(self, folder: Path, info: DatasetInfo, split: str) -> None:
        contents = info.splits[split]
        self.num_classes = info.num_classes
        self.mask_classes = len(info.mask_class_names)
        # absolute, or webdataset could take the beginning of a path for the scheme of a URL
        base = str(folder.resolve()) if info.url is None else info.url.rstrip("/")
        self.is_remote = info.url is not None
        self.shards = [f"{base}/{filename}" for filename in contents.filenames]
        self.lengths = contents.shard_lengths
        self._logged = torch.zeros(
            _KINDS, dtype=torch.bool
        ).share_memory_()  # shared by all processes that load from this

    def __len__(self) -> int:
        return sum(self.lengths)

    def check_labels(self) -> None:
        """Do nothing: a sample without a valid class is an error when it is met."""

    def check_masks(self) -> None:
        """Do nothing: a sample without a mask is an error when it is met."""

    def read(self, shard: int) -> Iterator[Sample]:
        """Yield the samples of a shard. Raises ``DataError`` when it cannot be read or holds more or fewer.

        The first shard with members of a kind that is not read is a line of the log.
        """
        unread = yield from _read(self.shards[shard], self.lengths[shard])
        places = [zlib.crc32(kind.encode("utf-8", "surrogateescape")) % _KINDS for kind in unread]
        if not self._logged[places].all():
            self._logged[places] = True
            logger.warning("shard '%s': not read: %s", self.shards[shard], unread)


def _read(shard: str, expected: int) -> Generator[Sample, None, Unread]:
    """Yield exactly ``expected`` samples; after a failure that may pass, read again and continue after the last sample.

    Return what was not read.
    """
    yielded = 0
    for wait in (*RETRY_SECONDS, None):
        count, unread = yielded, Unread()
        try:
            for count, sample in enumerate(islice(_samples(shard, unread), yielded, None), start=yielded + 1):
                if count <= expected:
                    yielded = count
                    yield sample
        except _UNREADABLE as error:
            if wait is None or not isinstance(error, OSError):
                raise DataError(
                    f"shard '{shard}' cannot be read after {count} of {expected} samples: {_reason(error)}"
                ) from None
            time.sleep(wait)
        else:
            if count != expected:
                raise DataError(f"shard '{shard}' must hold {expected} samples by _info.json, but {count} found")
            break
    return unread


def _samples(shard: str, unread: Unread) -> Iterator[Sample]:
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    def is_wanted(name: str) -> bool:
        extension = split_name(name)[1]
        if role_of(extension):
            return True
        unread.add(name)
        return suggests_sample(extension)  # so that a sample of nothing else is noticed

    with _opened(shard) as stream:
        files = tar_file_iterator(stream, skip_meta=None, select_files=is_wanted)
        for members in group_by_keys({**file, "__url__": shard} for file in files):
            yield _sample(members, shard)


@contextmanager
def _opened(shard: str) -> Iterator[IO[bytes]]:
    """Open a path or a URL; if nothing else went wrong, the program that fetches the URL must have ended well too."""
    from webdataset.gopen import Pipe, gopen

    stream = gopen(shard)
    try:
        yield stream
        while stream.read(_DRAINED_BYTES):
            pass
        stream.close()
    except _UNREADABLE as error:
        if isinstance(stream, Pipe) and (status := _exit_status(stream.proc)):
            raise OSError(f"exit {status} (read)") from error  # the cause: what was read simply ends
        raise
    finally:
        if isinstance(stream, Pipe):
            stream.proc.kill()  # closing would wait until a shard that nobody wants has arrived
        with suppress(OSError):
            stream.close()


def _exit_status(program: subprocess.Popen[bytes]) -> int:
    with suppress(subprocess.TimeoutExpired):
        return program.wait(_EXIT_SECONDS)
    return 0


def _sample(members: Mapping[str, Any], shard: str) -> Sample:
    key, images = members["__key__"], [members[name] for name in members if name in IMAGE_EXTENSIONS]
    if len(images) != 1:
        names = [name for name in members if not name.startswith("__")]
        number = f"{len(images)} images (.jpg, .jpeg or .png)" if images else no_image(names)
        raise DataError(f"shard '{shard}': sample '{printable(key)}' has {number}")
    label = parse_label(members.get(LABEL_EXTENSION, b""))
    return Sample(printable(key), images[0], None if label == NO_LABEL else label, members.get(MASK_EXTENSION))


def _reason(error: Exception) -> str:
    """One line for an error, without the command that webdataset quotes: it may hold a token."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": '{error.filename}'" if error.filename else "")
    text = str(error.args[0]) if error.args else ""
    if status := re.search(r"exit -?\d+(?= \(read\))", text):
        return f"the program that fetches it ended with {status[0]}"
    return text.partition(" @ ")[0].partition("\n")[0] or type(error).__name__
