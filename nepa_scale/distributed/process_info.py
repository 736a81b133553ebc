"""Processes of this machine: how long this one has been running, whether another still lives, a port for several."""

from __future__ import annotations

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
