"""Tasks on several worker processes, which never outlive this one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import wait
from typing import TypeVar

from nepa_scale.distributed.signals import handle
from nepa_scale.utils.errors import DataError

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
