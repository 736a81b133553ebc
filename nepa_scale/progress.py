"""What a person sees while a task runs: a live bar on a terminal, plain lines elsewhere, and ``log.txt`` always."""

from __future__ import annotations

import logging
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from nepa_scale.terminal import make_console, text_column

logger = logging.getLogger("nepa_scale")


def start_logging(task_dir: Path) -> None:
    """Send the project's messages to standard output and to the task's ``log.txt``."""
    logger.setLevel(logging.INFO)
    logger.propagate = False
    formatter = logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for handler in (logging.StreamHandler(), logging.FileHandler(task_dir / "log.txt")):
        handler.setFormatter(formatter)
        logger.addHandler(handler)


class StepDisplay:
    """Shows the step, its loss and the speed."""

    def __init__(self, title: str, start: int, total: int, *, shown: bool) -> None:
        console = make_console(stderr=True)
        self._title, self._total, self._shown = title, total, shown
        self._bar: Progress | None = None
        if shown and console.is_terminal:
            columns = (
                text_column(),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, text_column("{task.fields[text]}"), console=console)
            self._id = self._bar.add_task(title, total=total, completed=start, text="")
            self._bar.start()

    def update(self, step: int, values: dict[str, float] | None) -> None:
        """Advance to ``step``; ``values`` are shown when given."""
        text = "  ".join(f"{name} {value:.4g}" for name, value in (values or {}).items())
        if self._bar is not None:
            self._bar.update(self._id, completed=step)
            if values:
                self._bar.update(self._id, text=text)
        elif self._shown and values:
            logger.info("%s step %d/%d  %s", self._title, step, self._total, text)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
