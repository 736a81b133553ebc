"""Stop requests: a signal sets a flag, and the trainer saves after the current step and leaves."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP)
ONE_PRESS_SECONDS = 0.5
PATIENCE_SECONDS = 2.0
_SHOW_CURSOR = "\x1b[?25h"


#: Signals that a terminal sends to every process started from it, unless they were ignored from its start on.
_TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGHUP)


def handle(number: signal.Signals, handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    """Set the handler of a signal, but leave a terminal's signal alone where it is ignored."""
    if number not in _TERMINAL_SIGNALS or signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, handler)


class StopRequest:
    """Turns the first SIGTERM, SIGINT, SIGUSR2 or SIGHUP into ``requested``; a second SIGINT leaves at once.

    SIGHUP under ``nohup``, and Ctrl-C in the background of a script, stay ignored, as they are meant to.
    Python runs handlers between two of its own instructions, and waiting in a collective is a single one. So a thread
    listens, too, and ends the process if it is still there two seconds after a second Ctrl-C.
    """

    def __init__(self) -> None:
        self.requested = False
        for number in STOP_SIGNALS:
            handle(number, self._on_signal)
        received, sent = socket.socketpair()
        sent.setblocking(False)
        self._sockets = received, sent
        signal.set_wakeup_fd(sent.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._listen, args=(received,), name="signals", daemon=True).start()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            sys.exit(128 + number)
        self.requested = True

    def _listen(self, received: socket.socket) -> None:
        """Leave after a second Ctrl-C. A process just forked hears the first one, too, and writes here as well."""
        first = None
        while data := received.recv(1):
            if data[0] not in STOP_SIGNALS:
                continue
            now = time.monotonic()
            if first is None:
                first = now
            elif data[0] == signal.SIGINT and now - first > ONE_PRESS_SECONDS:
                time.sleep(PATIENCE_SECONDS)
                if sys.stderr.isatty():
                    os.write(sys.stderr.fileno(), _SHOW_CURSOR.encode())
                os._exit(128 + signal.SIGINT)
