"""Processes that a test starts: they end with it, and treat signals alike however the tests were started."""

from __future__ import annotations

import signal
import subprocess
from typing import Any, ClassVar

FROM_OUTSIDE = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


class Child(subprocess.Popen[Any]):
    """A process that is killed where its test, or the ``with`` around it, ends before it has."""

    started: ClassVar[list[Child]] = []

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.started.append(self)

    def __exit__(self, *error: Any) -> None:
        self.kill()
        super().__exit__(*error)


def end_children() -> None:
    """Kill what still runs, and close the pipes: left open, they would fail a later test."""
    while Child.started:
        with Child.started.pop():
            pass


def leave_signals_to_children() -> None:
    """Let children start with the default handlers, also where ``nohup`` or a script's ``&`` had signals ignored here.

    A handler that does nothing takes the place of ignoring: this process goes on as it did, and exec undoes handlers.
    """
    for number in FROM_OUTSIDE:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
