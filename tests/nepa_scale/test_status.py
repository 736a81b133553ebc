"""The status file of a task."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nepa_scale.run_dir.status import Status, now, read_status, write_status


@pytest.mark.parametrize("state", ["planned", "submitted", "running", "preempted", "finished", "failed"])
def test_status_is_read_back(tmp_path: Path, state: str) -> None:
    """Everything but the time of writing is what was given."""
    status = Status(state, step=3, steps_total=10, attempt=2, error="out of memory")
    write_status(tmp_path / "task", status)
    found = read_status(tmp_path / "task")
    assert found is not None
    assert (found.state, found.step, found.steps_total) == (state, 3, 10)
    assert (found.attempt, found.error) == (2, "out of memory")


def test_file_has_the_documented_keys(tmp_path: Path) -> None:
    """Other programs read exactly these keys from ``status.json``."""
    write_status(tmp_path, Status("running"))
    content = json.loads((tmp_path / "status.json").read_text())
    assert set(content) == {"state", "step", "steps_total", "attempt", "error", "updated_at"}
    assert content["error"] is None


def test_time_is_that_of_writing(tmp_path: Path) -> None:
    """A status written again shows when, in UTC, whatever time it was made with."""
    write_status(tmp_path, Status("running", updated_at="2001-01-01T00:00:00+00:00"))
    found = read_status(tmp_path)
    assert found is not None
    written = datetime.fromisoformat(found.updated_at)
    assert written.utcoffset() == datetime.now(UTC).utcoffset()
    assert written > datetime.fromisoformat("2020-01-01T00:00:00+00:00")
    assert datetime.fromisoformat(now()) >= written


def test_task_without_status(tmp_path: Path) -> None:
    """A task that was never planned has no status, which is not an error."""
    assert read_status(tmp_path) is None
    assert read_status(tmp_path / "absent") is None


def test_unknown_keys_are_passed_over(tmp_path: Path) -> None:
    """A later version's status, with more in it, can still be read; what it lacks has its default."""
    (tmp_path / "status.json").write_text('{"state": "running", "step": 4, "host": "a"}')
    found = read_status(tmp_path)
    assert found is not None
    assert (found.state, found.step, found.attempt) == ("running", 4, 0)
