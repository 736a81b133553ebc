"""Progress: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_SECONDS = 2.0

Report = Callable[[str, int, int], None]  # (what, done, total)


@contextmanager
def reporting() -> Iterator[Report]:
    """Give a function that shows how much is done of each thing."""
    from rich.progress import Progress, TaskID  # here, because most who import this only need the type

    from nepa_scale.utils.terminal import make_console, text_column

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
