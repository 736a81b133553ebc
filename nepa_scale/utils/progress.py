"""What a person sees while a task runs: a live bar on a terminal, plain lines elsewhere, and ``log.txt`` always."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from nepa_scale.utils.terminal import make_console, text_column

logger = logging.getLogger("nepa_scale")
console = make_console(stderr=True)

GAP = "  "  # between figures
BAR_WIDTH = 20
NARROW = 60  # columns: below, there is no bar beside the step and the time left


class ConsoleHandler(logging.Handler):
    """Prints messages above the bar of the same console; straight to a stream they would leave a copy of it behind."""

    def __init__(self, on: Console) -> None:
        super().__init__()
        self._console = on

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message as it is."""
        self._console.print(self.format(record), markup=False, highlight=False, emoji=False, soft_wrap=True)


def start_logging(task_dir: Path, on: Console = console) -> None:
    """Send the project's messages to standard error and to the task's ``log.txt``."""
    logger.setLevel(logging.INFO)
    logger.propagate = False
    formatter = logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for handler in (
        ConsoleHandler(on),
        logging.FileHandler(task_dir / "log.txt", encoding="utf-8", errors="backslashreplace"),
    ):
        handler.setFormatter(formatter)
        logger.addHandler(handler)


class StepDisplay:
    """Shows the step, its loss and the speed."""

    def __init__(self, title: str, start: int, total: int, *, shown: bool, on: Console = console) -> None:
        self._title, self._total, self._shown = title, total, shown
        self._bar: Progress | None = None
        if shown and on.is_terminal:
            bar = [BarColumn(BAR_WIDTH)] if on.width >= NARROW else []
            self._bar = Progress(
                text_column(Column(no_wrap=True, overflow="ellipsis")),
                *bar,
                MofNCompleteColumn(table_column=Column(no_wrap=True)),
                TimeRemainingColumn(table_column=Column(no_wrap=True)),
                FiguresColumn(table_column=Column(ratio=1, no_wrap=True)),
                console=on,
                expand=True,
            )
            self._id = self._bar.add_task(title, total=total, completed=start, figures={})
            self._bar.start()

    def update(self, step: int, values: dict[str, float] | None) -> None:
        """Advance to ``step``; ``values`` are shown when given."""
        if self._bar is not None:
            self._bar.update(self._id, completed=step)
            if values:
                self._bar.update(self._id, figures=values)
        elif self._shown and values:
            logger.info("%s step %d/%d  %s", self._title, step, self._total, GAP.join(_texts(values)))

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


class FiguresColumn(ProgressColumn):
    """The field ``figures`` of a task, as many as there is room for."""

    def render(self, task: Task) -> Figures:
        """The figures of one task."""
        return Figures(_texts(task.fields["figures"]))


class Figures:
    """Texts in a line, the first ones whole where not all fit: part of a number would be another number."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = list(texts)

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        """The line, at most as wide as ``options`` say."""
        fitting = len(self._texts)
        while len(GAP.join(self._texts[:fitting])) > options.max_width:
            fitting -= 1
        yield Text(GAP.join(self._texts[:fitting]), no_wrap=True)

    def __rich_measure__(self, _console: Console, options: ConsoleOptions) -> Measurement:
        """Nothing at least, all figures at most."""
        return Measurement(0, len(GAP.join(self._texts))).with_maximum(options.max_width)


def _texts(values: Mapping[str, float]) -> list[str]:
    return [f"{name} {value:.4g}" for name, value in values.items()]
