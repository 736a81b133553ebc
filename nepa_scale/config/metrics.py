"""The log of a task: ``metrics.jsonl`` (one object per line) and, on request, TensorBoard event files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nepa_scale.utils.files import write_atomically
from nepa_scale.utils.progress import logger

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class MetricsLog:
    """Appends rows; on resume those that will be written again are dropped, so none stands twice.

    These are the rows after the checkpoint's step, and a last evaluation whose result was not written.
    """

    def __init__(self, task_dir: Path, *, resume_at: int, final_step: int, tensorboard: bool) -> None:
        self._path = task_dir / "metrics.jsonl"
        self._events = task_dir / "tensorboard" if tensorboard else None
        self._writer: SummaryWriter | None = None
        self.rows = [
            row
            for row in read_rows(self._path)
            if row["step"] <= resume_at and not (row["step"] == final_step and "eval_loss" in row)
        ]
        write_atomically(self._path, "".join(json.dumps(row) + "\n" for row in self.rows))
        self._file = self._path.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        """Append one row; it must have a ``step``."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._events is not None and self._writer is None:
            self._open_events(self._events, row["step"])
        if self._writer is not None:
            for name, value in row.items():
                if name != "step":
                    self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Flush and release the files."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()

    def _open_events(self, folder: Path, step: int) -> None:
        if os.fsencode(folder) != str(folder).encode("utf-8", "surrogatepass"):  # TensorBoard takes names for UTF-8
            logger.warning(
                "%s: TensorBoard cannot find this folder under this locale; metrics.jsonl has it all", folder
            )
            self._events = None
            return
        # Imported at the first row: it takes a second that the first training step need not wait for.
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The whole rows of a metrics file; a last line cut off by a kill is dropped."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
