"""TensorBoard event files in the task's folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from nepa_scale.training.trackers import Record, TrackedTask, Tracker
from nepa_scale.utils.errors import UserError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard(Tracker):
    """Files that are opened at the first record, which takes a second that the first training step need not wait for.

    What earlier processes wrote after the checkpoint is purged by step, so records are sent again.
    """

    def __init__(self, task: TrackedTask) -> None:
        self._folder = task.task_dir / "tensorboard"
        self.stored = len(task.records)
        self._writer: SummaryWriter | None = None
        if os.fsencode(self._folder) != str(self._folder).encode("utf-8", "surrogatepass"):
            raise UserError(f"{self._folder}: TensorBoard cannot find this folder under this locale")

    def log(self, record: Record) -> None:
        """Write a scalar for each value."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=record["step"])
        for name, value in record.items():
            if name != "step":
                self._writer.add_scalar(name, value, record["step"])

    def finish(self, result: Path | None) -> None:
        """Flush and close the files."""
        if self._writer is not None:
            self._writer.close()


TRACKER = TensorBoard
