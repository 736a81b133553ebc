"""Processes of this machine: how long this one runs, whether another still lives, a free port, memory that was freed.

glibc's malloc returns large blocks to the system at once, or never. A training step frees and allocates the same
tensors again and again. Those above 128 KiB come from ``mmap`` and go back on ``free``, so every step has all their
pages zeroed and mapped anew: 7,000 page faults for a model of 0.7 million parameters, 25,000 at 10.7 million
(docs/speed.md). Under ZeRO-3 gathered weights come and go in many sizes, and a rank that keeps them grows to twice the
memory that its tensors take.
"""

from __future__ import annotations

import ctypes
import os
import socket
import time
from pathlib import Path

import psutil

START_FIELD = 19  # of what follows the name in /proc/self/stat: when the process began, in ticks since boot
CLOCK_SECONDS = 2.0


def process_age() -> float | None:
    """Seconds since this process was started; None where the system does not say."""
    try:
        began = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()[START_FIELD])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - began / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


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
