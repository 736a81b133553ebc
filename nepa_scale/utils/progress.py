"""What a person sees while work goes on: a live bar on a terminal, plain lines elsewhere, and ``log.txt`` always.

Whatever is printed is text: no name is markup, an emoji or an escape sequence.
"""

from __future__ import annotations

import logging
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text


class _TextConsole(Console):
    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(printable(text), **how)


def make_console(plain_width: int | None = None, *, stderr: bool = False) -> Console:
    """A console on standard output or error: as wide as the terminal, or ``plain_width`` columns elsewhere."""
    width = None if (sys.stderr if stderr else sys.stdout).isatty() else plain_width
    return _TextConsole(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


logger = logging.getLogger("nepa_scale")
console = make_console(stderr=True)

GAP = "  "  # between figures
BAR_WIDTH = 20
NARROW = 60  # columns: below, there is no bar beside the step and the time left
LINE_SECONDS = 2.0
Report = Callable[[str, int, int], None]  # (what, done, total)


class ConsoleHandler(logging.Handler):
    """Prints messages above the bar of the same console; straight to a stream they would leave a copy of it behind."""

    def __init__(self, on: Console) -> None:
        super().__init__()
        self._console = on

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message as it is."""
        self._console.print(self.format(record), markup=False, highlight=False, emoji=False, soft_wrap=True)


class LogFile(logging.FileHandler):
    """Writes messages to a file. On a full disk it drops them: they are on standard error, too."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Ignore ``OSError``, for which logging would print a stack with every message."""
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


def start_logging(task_dir: Path, on: Console = console) -> None:
    """Send the project's messages to standard error and to the task's ``log.txt``."""
    logger.setLevel(logging.INFO)
    logger.propagate = False
    formatter = logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for handler in (
        ConsoleHandler(on),
        LogFile(task_dir / "log.txt", encoding="utf-8", errors="backslashreplace"),
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
                MetricsColumn(table_column=Column(ratio=1, no_wrap=True)),
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


class MetricsColumn(ProgressColumn):
    """The field ``figures`` of a task, as many as there is room for."""

    def render(self, task: Task) -> MetricsText:
        """The figures of one task."""
        return MetricsText(_texts(task.fields["figures"]))


class MetricsText:
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


def text_column(column: Column | None = None) -> TextColumn:
    """The column of a progress display that says what is under way; ``column`` as rich's tables have it."""
    return TextColumn("{task.description}", markup=False, table_column=column)


def printable(text: str) -> str:
    """``text`` with a dot for each control character but the ends of lines and tabs."""
    return "".join("·" if unicodedata.category(c) == "Cc" and c not in "\n\t" else c for c in text)


@contextmanager
def reporting() -> Iterator[Report]:
    """Give a function that shows how much is done of each thing."""

    console = make_console(stderr=True)
    if not console.is_terminal:
        yield _Lines().report
        return
    progress = Progress(text_column(), *Progress.get_default_columns()[1:], console=console)
    bars: dict[str, TaskID] = {}

    def advance(what: str, done: int, total: int) -> None:
        progress.start()  # not before, or nothing to do would leave an empty line
        if what not in bars:
            bars[what] = progress.add_task(what, total=total)
        progress.update(bars[what], completed=done)

    try:
        yield advance
    finally:
        if bars:
            progress.stop()


class _Lines:
    """Plain lines: the first and the last of each thing, and in between one now and then."""

    def __init__(self) -> None:
        self._printed: dict[str, float] = {}

    def report(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now - self._printed.get(what, -LINE_SECONDS) >= LINE_SECONDS:
            self._printed[what] = now
            print(f"{what}: {done} of {total}", flush=True)
