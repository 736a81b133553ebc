"""Processes of this machine: which live and since when, workers that end with their parent, and memory that is freed.

glibc's malloc returns large blocks to the system at once, or never. A training step frees and allocates the same
tensors again and again. Those above 128 KiB come from ``mmap`` and go back on ``free``, so every step has all their
pages zeroed and mapped anew: 7,000 page faults for a model of 0.7 million parameters, 25,000 at 10.7 million
(docs/speed.md). Under ZeRO-3 gathered weights come and go in many sizes, and a rank that keeps them grows to twice the
memory that its tensors take.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import wait
from pathlib import Path
from typing import TypeVar

import psutil

from nepa_scale.distributed.signals import handle
from nepa_scale.utils.errors import DataError

START_FIELD = 19  # of what follows the name in /proc/self/stat: when the process began, in ticks since boot
CLOCK_SECONDS = 2.0
"""How far two readings of one start time may differ: it is counted from the boot, which clock corrections move."""


def process_age() -> float | None:
    """Seconds since this process was started; None where the system does not say."""
    try:
        began = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()[START_FIELD])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - began / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def start_time(pid: int) -> float | None:
    """When the process began, in s since 1970; None where it has ended."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


def lives(pid: int, started: float) -> bool:
    """Whether the process that began at ``started`` as ``pid`` is still there."""
    now = start_time(pid)
    return now is not None and abs(now - started) < CLOCK_SECONDS


def descends(pid: int, ancestor: int) -> bool:
    """Whether the process ``pid`` was started by ``ancestor``, or by one that it started; not where it has ended."""
    try:
        return ancestor in [process.pid for process in psutil.Process(pid).parents()]
    except psutil.NoSuchProcess:
        return False


def free_port() -> int:
    """A port at which nobody listens just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# malloc.h of glibc: parameters of mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1
_LARGEST_MMAP_THRESHOLD = 2**25  # HEAP_MAX_SIZE / 2: more is refused
_SMALL_MMAP_THRESHOLD = 2**18


def keep_freed_memory() -> bool:
    """Tell glibc's malloc not to return memory; whether that was done (not on other systems, nor against a user's
    MALLOC_* variables)."""
    return _set({_M_MMAP_THRESHOLD: _LARGEST_MMAP_THRESHOLD, _M_TRIM_THRESHOLD: _NEVER})


def give_back_freed_memory() -> bool:
    """Tell glibc's malloc to return large tensors to the system at once; whether that was done."""
    return _set({_M_MMAP_THRESHOLD: _SMALL_MMAP_THRESHOLD})


def _set(parameters: dict[int, int]) -> bool:
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return all(mallopt(parameter, value) for parameter, value in parameters.items())


T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """The cores that this process may use; all where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
