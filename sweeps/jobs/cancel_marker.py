"""Tasks that a user has cancelled: a mark beside the task, which every launch and queue honours until it is lifted.

A signal alone would not do: a task that is told to stop saves, and the next launch continues it.
"""

from __future__ import annotations

from pathlib import Path

CANCEL_MARKER = "cancelled"
CANCELLED = "cancelled"


def mark_cancelled(task_dir: Path) -> None:
    """Mark the task as cancelled."""
    task_dir.mkdir(parents=True, exist_ok=True)
    (task_dir / CANCEL_MARKER).touch()


def is_cancelled(task_dir: Path) -> bool:
    """Whether the task is cancelled."""
    return (task_dir / CANCEL_MARKER).exists()


def clear_cancel_marker(task_dir: Path) -> None:
    """Lift the mark."""
    (task_dir / CANCEL_MARKER).unlink(missing_ok=True)
