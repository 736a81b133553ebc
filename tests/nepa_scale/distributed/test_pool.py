"""Tasks on several processes."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import time
from contextlib import closing

import pytest

from nepa_scale.distributed.processes import unordered
from nepa_scale.utils.errors import DataError


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_is_done_once(workers: int) -> None:
    """All results come, whatever the number of processes, and none twice."""
    assert sorted(unordered(math.isqrt, list(range(40)), workers)) == sorted(map(math.isqrt, range(40)))
    assert list(unordered(math.isqrt, [], workers)) == []


def test_a_worker_that_dies_is_one_line() -> None:
    """As when the system ends a process for want of memory: no hang, no traceback, and what to do."""
    with pytest.raises(DataError, match=r"a worker process was killed.*fewer workers="):
        list(unordered(os._exit, [9, 9], 2))


def test_leaving_early_ends_the_workers() -> None:
    """Closing the iteration, as Ctrl-C and errors do, does not wait for tasks that still run."""
    before = set(multiprocessing.active_children())
    started = time.monotonic()
    with closing(unordered(time.sleep, [0, 60, 60, 60], 2)) as results:
        next(results)
    assert time.monotonic() - started < 20
    assert set(multiprocessing.active_children()) <= before


def test_errors_of_the_work_are_passed_on() -> None:
    """What a task raises is raised here, and ends the others."""
    with pytest.raises(ValueError, match="negative"):
        list(unordered(math.isqrt, [4, -1, 9], 2))


def test_workers_ignore_ctrl_c_where_their_parent_does() -> None:
    """Started in the background, the command and its workers go on when Ctrl-C is meant for something else."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert list(unordered(signal.getsignal, [signal.SIGINT] * 3, 2)) == [signal.SIG_IGN] * 3
    finally:
        signal.signal(signal.SIGINT, before)
