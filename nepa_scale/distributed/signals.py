"""How processes are told to end: stop requests by signals, and worker processes, which never outlive their parent.

The first signal sets a flag, and the trainer saves after the current step and leaves.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import wait
from types import FrameType
from typing import TypeVar

from nepa_scale.utils.errors import DataError

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


T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def unordered(work: Callable[[T], R], tasks: Sequence[T], workers: int | None) -> Generator[R, None, None]:
    """Yield the result of ``work`` for every task as it is ready; in this process if there is one worker.

    Whatever ends the iteration ends the workers. Raises what ``work`` raises, and ``DataError`` if a worker dies.
    """
    count = min(workers or cores(), len(tasks))
    if count <= 1:
        yield from map(work, tasks)
        return
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=start_worker)
    try:
        yield from _results(pool, work, tasks, 2 * count)
    except BrokenProcessPool:
        raise DataError(
            "a worker process was killed, which happens when memory runs out: the same command with fewer workers= "
            "continues"
        ) from None
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _results(pool: ProcessPoolExecutor, work: Callable[[T], R], tasks: Iterable[T], ahead: int) -> Iterator[R]:
    """Keep ``ahead`` tasks in the pool: each is a list of references, and millions need not be copied at once."""
    waiting = iter(tasks)
    pending: set[Future[R]] = {pool.submit(work, task) for task in islice(waiting, ahead)}
    while pending:
        done = next(as_completed(pending))
        pending.remove(done)
        result = done.result()
        pending |= {pool.submit(work, task) for task in islice(waiting, 1)}
        yield result


def start_worker() -> None:
    """Let Ctrl-C end this worker silently, and end it when its parent is gone: a killed parent cannot say so."""
    handle(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
