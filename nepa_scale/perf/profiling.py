"""Where the time of a step goes: time in collectives, a trace of some steps (``log.profile``), NVTX ranges.

Of collectives, the time that DeepSpeed's own spend inside them, or in waiting for them, is counted. On CPUs gloo's
calls block, so the clock is read before and after. On GPUs a collective runs on a stream of its own and the computing
stream waits for its end: two events on the computing stream, read once per log interval, give the time of that wait,
and nothing is synchronised in between. What overlaps with computing is not counted either way.

A trace opens in https://ui.perfetto.dev. Profiled steps are slower; what they compute is the same.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, record_function

from nepa_scale.config.schema import RunConfig
from nepa_scale.distributed.world import World
from nepa_scale.utils.files import replacing, write_atomically
from nepa_scale.utils.progress import logger

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


FOLDER = "profile"
COSTLIEST = 10


class Profiling:
    """Profiles the steps that ``log.profile`` names, on rank 0, and names the parts of every step.

    ``folder``: that of the task; the trace and the table of operations go into ``profile`` below it.
    """

    def __init__(self, config: RunConfig, folder: Path, world: World, device: torch.device) -> None:
        self._steps = config.log.profiled_steps() if world.is_main else range(0)
        self._folder, self._on_gpu = folder / FOLDER, device.type == "cuda"
        self._marks = config.engine.nvtx and self._on_gpu and torch.version.cuda is not None
        self._profile: torch.profiler.profile | None = None
        self._first = self._last = 0

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Name what happens within, in the trace and for Nsight Systems."""
        with (
            record_function(name) if self._profile is not None else contextlib.nullcontext(),
            torch.cuda.nvtx.range(name) if self._marks else contextlib.nullcontext(),
        ):
            yield

    @contextlib.contextmanager
    def step(self, number: int, total: int) -> Iterator[None]:
        """Step ``number`` (from 1) of ``total``; after the last one to profile, what was measured is written."""
        if number in self._steps and self._profile is None:
            kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._on_gpu else [])]
            self._profile, self._first = torch.profiler.profile(activities=kinds), number
            self._profile.start()
        with self.part(f"step {number}"):
            yield
        self._last = number
        if number in (*self._steps[-1:], total):
            self.close()

    def close(self) -> None:
        """Write the trace and the table of what has been profiled since the last call, if anything has.

        A file that cannot be written costs the profile, not the training.
        """
        profile, self._profile = self._profile, None
        if profile is None:
            return
        try:
            self._write(profile)
        except OSError as error:
            logger.warning("no profile of steps %d to %d: %s", self._first, self._last, error)

    def _write(self, profile: torch.profiler.profile) -> None:
        if self._on_gpu:
            torch.cuda.synchronize()  # so that the last step's kernels are in the trace
        profile.stop()
        name = f"steps_{self._first}-{self._last}"
        order = "self_device_time_total" if self._on_gpu else "self_cpu_time_total"
        table = profile.key_averages().table(sort_by=order, row_limit=COSTLIEST, max_name_column_width=80)
        write_atomically(self._folder / f"{name}.txt", table)
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            plain = Path(folder) / "trace.json"
            profile.export_chrome_trace(str(plain))
            with (
                plain.open("rb") as trace,
                replacing(self._folder / f"{name}.json.gz") as file,
                gzip.open(file, "wb") as packed,
            ):
                shutil.copyfileobj(trace, packed)
        logger.info("profile of steps %d to %d: %s", self._first, self._last, self._folder / f"{name}.txt")
