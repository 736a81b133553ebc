"""What a task leaves on record while it trains: the rows of its log, its progress bar, its status."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from nepa_scale.config.metrics import MetricsLog
from nepa_scale.config.schema import RunConfig
from nepa_scale.distributed.process_info import process_age
from nepa_scale.distributed.world import World
from nepa_scale.run_dir.status import Status, read_status, write_status
from nepa_scale.utils.progress import StepDisplay

STATUS_INTERVAL_SECONDS = 2.0
SHOWN = ("loss", "lr", "grad_norm", "images_per_second", "mfu")  # beside the progress bar


class Journal:
    """Written by rank 0; the other ranks have one that writes nothing.

    Attributes:
        rows: those that earlier processes logged up to where this one begins; empty on the other ranks.
        replaced, skipped: images that were replaced and steps that were skipped by then.
        startup_seconds: how old this process is as it begins to train; None where that is not known.
    """

    def __init__(self, task_dir: Path, config: RunConfig, world: World, *, start: int, total_steps: int) -> None:
        """Continue the record of a task whose training goes on after step ``start``."""
        self._task_dir, self._total_steps, self._is_main = task_dir, total_steps, world.is_main
        self._batch_size = config.task_config().batch_size
        status = read_status(task_dir)
        self._attempt = 1 + (status.attempt if status is not None else 0)
        self.startup_seconds = process_age()
        self._started = self._status_written = time.perf_counter()
        self._log = None
        if world.is_main:
            self._log = MetricsLog(
                task_dir, resume_at=start, final_step=total_steps, tensorboard=config.log.tensorboard
            )
        self.rows: list[dict[str, Any]] = self._log.rows if self._log is not None else []
        self.replaced, self.skipped = int(self._largest("images_replaced")), int(self._largest("skipped_steps"))
        self._earlier_seconds = self._largest("elapsed_seconds")
        self._display = StepDisplay(f"{config.task} {config.model.size}", start, total_steps, shown=world.is_main)

    @property
    def seconds(self) -> float:
        """Time that all processes of the task took until now."""
        return self._earlier_seconds + time.perf_counter() - self._started

    def step(self, done: int) -> None:
        """Move the progress bar."""
        self._display.update(done, None)

    def write(self, done: int, figures: dict[str, Any]) -> None:
        """Log a row of the state after step ``done``; of a skipped step some figures are no numbers, and left out."""
        if self._log is not None:
            row = {"step": done, "images_seen": done * self._batch_size}
            self._log.write(row | {name: value for name, value in figures.items() if math.isfinite(value)})

    def write_step(self, done: int, figures: dict[str, Any], problem: str | None) -> None:
        """Log a row of training, show it, and now and then bring the status up to date."""
        self.write(done, figures)
        self._display.update(done, {name: figures[name] for name in SHOWN if math.isfinite(figures[name])})
        if time.perf_counter() - self._status_written > STATUS_INTERVAL_SECONDS:
            self.status("running", done, problem)

    def evaluated(self, done: int) -> bool:
        """Whether an evaluation after step ``done`` is on record; rank 0 alone knows."""
        return any(row["step"] == done and any(name.startswith("eval_") for name in row) for row in self.rows)

    def status(self, state: str, step: int, problem: str | None = None) -> None:
        """Write how the task stands; ``problem``: what went wrong without ending it."""
        self._status_written = time.perf_counter()
        if self._is_main:
            total, attempt = self._total_steps, self._attempt
            write_status(self._task_dir, Status(state, step=step, steps_total=total, attempt=attempt, error=problem))

    def close(self) -> None:
        """Leave the terminal and the files as they should be."""
        self._display.close()
        if self._log is not None:
            self._log.close()

    def _largest(self, name: str) -> float:
        return max((row.get(name, 0.0) for row in self.rows), default=0.0)
