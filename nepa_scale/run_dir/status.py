"""How one task of one run stands: its state in ``status.json``, for any process to see, and the lock of its folder."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from nepa_scale.distributed.processes import lives, start_time
from nepa_scale.utils.errors import RunError
from nepa_scale.utils.files import read_json, write_json


def now() -> str:
    """The present moment in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Status:
    """How a task stands. ``attempt`` counts the times it was started; ``error`` says why it failed,
    or, while it goes on, why its last checkpoint was not written."""

    state: str
    step: int = 0
    steps_total: int = 0
    attempt: int = 0
    error: str | None = None
    updated_at: str = field(default_factory=now)


def status_path(task_dir: Path) -> Path:
    """The file that holds a task's status."""
    return task_dir / "status.json"


def read_status(task_dir: Path) -> Status | None:
    """The task's status, or None where it has none yet."""
    try:
        content = read_json(status_path(task_dir))
    except FileNotFoundError:
        return None
    known = {item.name for item in dataclasses.fields(Status)}
    return Status(**{key: value for key, value in content.items() if key in known})


def write_status(task_dir: Path, status: Status) -> None:
    """Replace the task's status; its time of writing is set here."""
    write_json(status_path(task_dir), dataclasses.asdict(dataclasses.replace(status, updated_at=now())))


OWNER_NAME = ".lock.owner"


@dataclass(frozen=True)
class Holder:
    """A process that holds, or held, the lock of a folder. When it ``started``, in s since 1970 (0 where that is not
    known), tells it from a later one of the same pid."""

    pid: int
    host: str
    started: float

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def holder(folder: Path) -> Holder | None:
    """The process of this machine that holds the lock of ``folder``. Looking disturbs nobody who wants the lock."""
    last = last_holder(folder)
    return last if last is not None and last.host == socket.gethostname() and lives(last.pid, last.started) else None


def is_in_use(folder: Path) -> bool:
    """Whether a process holds the lock of ``folder``, here or on another machine that shares it."""
    last = last_holder(folder)
    if last is None or last.host == socket.gethostname():
        return holder(folder) is not None
    try:
        with FileLock(folder / ".lock", timeout=0):
            return False
    except Timeout:
        return True


def is_in_use_by_another(folder: Path) -> bool:
    """Whether a process other than this one holds the lock of ``folder``."""
    process = holder(folder)
    return is_in_use(folder) if process is None else process.pid != os.getpid()


def record_holder(folder: Path, pid: int) -> None:
    """Write down that the process ``pid`` of this machine holds ``folder``."""
    me = Holder(pid, socket.gethostname(), start_time(pid) or 0.0)
    (folder / OWNER_NAME).write_text(json.dumps(dataclasses.asdict(me)), encoding="utf-8")


def last_holder(folder: Path) -> Holder | None:
    """The process that last took the lock of ``folder``, as far as one did not end by giving it back."""
    try:
        return Holder(**read_json(folder / OWNER_NAME))
    except (FileNotFoundError, ValueError, TypeError):
        return None


@contextmanager
def exclusive(task_dir: Path) -> Iterator[None]:
    """Hold the task's lock; it is released with the process, however that ends.

    Raises:
        RunError: when another process holds it, naming that process, or the folder cannot be written to.
    """
    owner = task_dir / OWNER_NAME
    try:
        task_dir.mkdir(parents=True, exist_ok=True)
        owner.touch()
    except OSError as error:
        raise RunError(f"{task_dir}: cannot be written to ({error.strerror}); name another run_dir") from error
    lock = FileLock(task_dir / ".lock", timeout=0)
    try:
        with lock:
            record_holder(task_dir, os.getpid())
            yield
            owner.unlink(missing_ok=True)
    except Timeout as error:
        by = last_holder(task_dir) or "another process"
        raise RunError(f"{task_dir}: in use by {by}; wait for it or stop it") from error
