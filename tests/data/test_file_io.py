"""Reading from storage that fails for a while, or for good."""

from __future__ import annotations

import errno
import os
import pickle
import threading
import time
from pathlib import Path

import pytest

from nepa_scale.data import file_io
from nepa_scale.data.file_io import OPEN_FILES, RetryingReader, gaps, read_with_retries
from nepa_scale.utils.errors import DataError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of 100 different bytes."""
    path = tmp_path / "mount" / "file"
    path.parent.mkdir()
    path.write_bytes(bytes(range(100)))
    return path


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for less than a second in all."""
    monkeypatch.setattr(file_io, "RETRY_SECONDS", (0.05, 0.1, 0.3))


def test_parts_are_read_where_they_are(file: Path) -> None:
    """Offset and size, from the middle and the ends."""
    files = RetryingReader()
    assert files.read(file, 10, 5) == bytes(range(10, 15))
    assert files.read(file, 0, 100) == read_with_retries(file) == bytes(range(100))


@pytest.mark.usefixtures("short_waits")
def test_a_mount_that_comes_back_is_waited_for(file: Path) -> None:
    """A file system that is gone for a moment costs that moment and nothing else."""
    away = file.parent.rename(file.parent.with_name("away"))
    threading.Timer(0.1, lambda: away.rename(file.parent)).start()
    started = time.monotonic()
    assert RetryingReader().read(file, 3, 2) == b"\x03\x04"
    assert time.monotonic() - started > 0.09


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_errors_of_the_file_system_are_tried_again_with_a_new_handle(
    file: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EIO and a stale handle: the file is opened anew, because a stale handle stays stale."""
    files, read, opened = RetryingReader(), os.pread, []
    files.read(file, 0, 1)
    stale = list(files._open.values())

    def flaky(descriptor: int, size: int, offset: int) -> bytes:
        if descriptor in stale and not opened:
            opened.append(descriptor)
            raise OSError(number, os.strerror(number))
        return read(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", flaky)
    assert files.read(file, 5, 1) == b"\x05"
    assert opened == stale


@pytest.mark.usefixtures("short_waits")
def test_storage_that_stays_away_is_named(file: Path) -> None:
    """After four attempts one line says which file, why, and how long it was tried."""
    file.parent.rename(file.parent.with_name("away"))
    for read in (lambda: RetryingReader().read(file, 0, 1), lambda: read_with_retries(file)):
        with pytest.raises(DataError, match=rf"'{file}' cannot be read: No such file or directory, 4 times in 0\.45 s"):
            read()


def test_a_file_that_shrank_is_named(file: Path) -> None:
    """Reading past the end is no short image but an error."""
    files = RetryingReader()
    files.read(file, 0, 100)
    os.truncate(file, 50)
    with pytest.raises(DataError, match="became shorter while in use"):
        files.read(file, 40, 20)


def test_few_files_stay_open(tmp_path: Path) -> None:
    """A thousand shards do not use up the descriptors of a process, and reading them again works."""
    paths = [tmp_path / str(number) for number in range(OPEN_FILES * 3)]
    for path in paths:
        path.write_bytes(path.name.encode())
    files, before = RetryingReader(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208  (descriptors, not files)
    for path in [*paths, *paths]:
        assert files.read(path, 0, len(path.name)) == path.name.encode()
    assert len(os.listdir("/proc/self/fd")) - before <= OPEN_FILES  # noqa: PTH208
    copy = pickle.loads(pickle.dumps(files))
    assert copy.read(paths[0], 0, 1) == b"0"
    del files, copy
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_what_is_missing_of_a_row_of_files_is_named() -> None:
    """Between its files always; before the first only where a row begins at 0 or 1, and this one does not."""
    assert gaps(["a-00.tar", "a-03.tar", "b-7.tar", "notes.txt"]) == ["a-01.tar", "a-02.tar"]
    for first in (0, 1):
        assert gaps([f"a-{first}.tar", f"a-{first + 1}.tar"], from_start=True) == []
    assert gaps(["a-2.tar"]) == []
    assert gaps(["a-2.tar"], from_start=True) == ["a-0.tar", "a-1.tar"]
