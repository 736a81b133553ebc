"""trackio: runs in a local database (``TRACKIO_DIR``), shown by ``trackio show``."""

from __future__ import annotations

import json
from pathlib import Path

import trackio
from trackio.sqlite_storage import SQLiteStorage

from nepa_scale.training.trackers import Record, TrackedTask, Tracker


class Trackio(Tracker):
    """One run for the task. Records are stored in batches twice a second, so the database is asked what it holds."""

    def __init__(self, task: TrackedTask) -> None:
        self._run = trackio.init(
            project=task.project,
            name=task.name,
            config={**task.settings, "tags": list(task.tags)},
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self.stored = len(SQLiteStorage.get_logs(task.project, task.name))

    def log(self, record: Record) -> None:
        """Send one record."""
        self._run.log({name: value for name, value in record.items() if name != "step"}, step=record["step"])

    def finish(self, result: Path | None) -> None:
        """Attach the result's text and wait until all is stored."""
        if result is not None:
            metrics = json.loads(result.read_text(encoding="utf-8"))["metrics"]
            self._run.config.update({f"result.{name}": value for name, value in metrics.items()})
        self._run.finish()


TRACKER = Trackio
