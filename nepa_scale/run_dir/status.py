"""The state of one task of one run, kept in ``status.json`` so that any process can see how it stands."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from nepa_scale.utils.files import read_json, write_json

STATES = ("planned", "submitted", "running", "preempted", "finished", "failed")


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
