"""Whether a process still lives. Its pid alone does not say so: another may have got it since."""

from __future__ import annotations

import psutil

CLOCK_SECONDS = 2.0
"""How far two readings of one start time may differ: it is counted from the boot, which clock corrections move."""


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
