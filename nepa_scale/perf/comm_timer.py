"""How long training waits for collectives: the time DeepSpeed's own spend inside them, or in waiting for them.

On CPUs gloo's calls block, so the clock is read before and after. On GPUs a collective runs on a stream of its own
and the computing stream waits for its end: two events on the computing stream, read once per log interval, give the
time of that wait, and nothing is synchronised in between. What overlaps with computing is not counted either way.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

COLLECTIVES = (
    "all_gather",
    "all_gather_coalesced",
    "all_gather_into_tensor",
    "all_reduce",
    "all_reduce_coalesced",
    "all_to_all_single",
    "barrier",
    "broadcast",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
)


class CommunicationClock:
    """Adds up the time this process waits for DeepSpeed's collectives, from its making on."""

    def __init__(self, device: torch.device) -> None:
        from deepspeed.comm import comm

        self._on_gpu = device.type == "cuda"
        self._seconds, self._inside = 0.0, False
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        backend = comm.cdb
        for name in COLLECTIVES:
            setattr(backend, name, self._timed(getattr(backend, name)))

    def read(self) -> float:
        """Seconds since the last reading; on GPUs this waits for the work queued so far."""
        if self._events:
            torch.cuda.synchronize()
            self._seconds += sum(before.elapsed_time(after) for before, after in self._events) / 1e3
            self._events.clear()
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    @contextmanager
    def ignoring(self) -> Iterator[None]:
        """Leave out what is communicated inside."""
        before = self.read()
        yield
        self.read()
        self._seconds += before

    def _timed(self, collective: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(collective)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self._waiting():
                handle = collective(*args, **kwargs)
            if hasattr(handle, "wait"):  # an asynchronous one: the wait comes later, if it is not over by then
                handle = _Handle(handle, self)
            return handle

        return timed

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Count the time until leaving, once where one collective is made of others."""
        if self._inside:
            yield
            return
        self._inside = True
        before = self._now()
        try:
            yield
        finally:
            self._inside = False
            self._add(before, self._now())

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _add(self, before: Any, after: Any) -> None:
        if self._on_gpu:
            self._events.append((before, after))
        else:
            self._seconds += after - before


class _Handle:
    """The handle of an asynchronous collective, whose wait is timed."""

    def __init__(self, handle: Any, clock: CommunicationClock) -> None:
        self._handle, self._clock = handle, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for the collective to end."""
        with self._clock._waiting():
            return self._handle.wait(*args, **kwargs)
