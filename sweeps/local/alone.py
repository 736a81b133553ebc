"""Having this machine to oneself, for measurements that other studies' tasks would spoil."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction

from sweeps.local.leases import GPU, SharesBook

POLL_SECONDS = 0.5


@contextmanager
def whole_machine(gpus: Sequence[str]) -> Iterator[None]:
    """Hold all ``gpus``, or without any all cores, against every queue of this user; running tasks are waited for."""
    book = SharesBook()
    devices = [f"{GPU}{name}" for name in gpus] or ["cores"]
    share = book.claim(devices, Fraction(1), len(devices))
    if share is None:
        print("waiting until tasks of other studies have ended: beside them, times would come out too long", flush=True)
    while share is None:
        time.sleep(POLL_SECONDS)
        share = book.claim(devices, Fraction(1), len(devices))
    try:
        yield
    finally:
        book.release(share)
