"""Progress: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[str, int, int], None]  # (what, done, total)


@contextmanager
def reporting() -> Iterator[Report]:
    """Give a function that shows how much is done of each thing."""
    from rich.console import Console  # here, because most who import this only need the type
    from rich.progress import Progress, TaskID

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda what, done, total: print(f"{what}: {done} of {total}", flush=True)
        return
    with Progress(console=console) as progress:
        bars: dict[str, TaskID] = {}

        def advance(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what, total=total)
            progress.update(bars[what], completed=done)

        yield advance
