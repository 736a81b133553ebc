"""Stopping on request: a signal raises a flag, and the loop saves at its next step boundary."""

from __future__ import annotations

import signal
import sys
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP)


class StopRequest:
    """Turns the first SIGTERM, SIGINT, SIGUSR2 or SIGHUP into ``requested``; a second SIGINT leaves at once."""

    def __init__(self) -> None:
        self.requested = False
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            sys.exit(128 + number)
        self.requested = True
