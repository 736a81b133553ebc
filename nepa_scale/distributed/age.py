"""How long this process has been running, the imports of Python and torch included. Linux only."""

from __future__ import annotations

import os
import time
from pathlib import Path

START_FIELD = 19  # of what follows the name in /proc/self/stat: when the process began, in ticks since boot


def process_age() -> float | None:
    """Seconds since this process was started; None where the system does not say."""
    try:
        began = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()[START_FIELD])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - began / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None
