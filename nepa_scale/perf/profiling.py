"""Where the time of a step goes: a trace of some steps (``log.profile``), and NVTX ranges (``engine.nvtx``).

The trace opens in https://ui.perfetto.dev. Profiled steps are slower; what they compute is the same.
"""

from __future__ import annotations

import contextlib
import gzip
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, record_function

from nepa_scale.config.schema import RunConfig
from nepa_scale.distributed.world import World
from nepa_scale.utils.files import replacing, write_atomically
from nepa_scale.utils.progress import logger

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
