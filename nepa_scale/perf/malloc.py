"""How glibc's malloc treats freed memory: large blocks, left alone, go back to the system at once or never.

A training step frees and allocates the same tensors again and again. Those above 128 KiB come from ``mmap`` and go
back on ``free``, so every step has all their pages zeroed and mapped anew: 7,000 page faults for a model of 0.7
million parameters, 25,000 at 10.7 million (docs/speed.md). Under ZeRO-3 gathered
weights come and go in many sizes, and a rank that keeps them grows to twice the memory that its tensors take.
"""

from __future__ import annotations

import ctypes
import os

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
