"""Keep freed memory in the process: glibc's malloc gives large blocks back to the system at once.

A training step frees and allocates the same tensors again and again. Those above 128 KiB come from ``mmap`` and go
back on ``free``, so every step has all their pages zeroed and mapped anew: 7,000 page faults for a model of 0.7
million parameters, 25,000 at 10.7 million (docs/speed.md).
"""

from __future__ import annotations

import ctypes
import os

# malloc.h of glibc: parameters of mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1
_LARGEST_MMAP_THRESHOLD = 2**25  # HEAP_MAX_SIZE / 2: more is refused


def keep_freed_memory() -> bool:
    """Tell glibc's malloc not to return memory; whether that was done (not on other systems, nor against a user's
    MALLOC_* variables)."""
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD) and mallopt(_M_TRIM_THRESHOLD, _NEVER))
