"""The micro-batches of each training step, on the device; errors and replaced images wait until every rank knows."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from nepa_scale.data.datasets import FaultLog, Loaded, allowed_faults
from nepa_scale.data.file_io import prepare_command
from nepa_scale.data.info import folder_of
from nepa_scale.data.loader import prefetched, train_loader
from nepa_scale.data.streaming import train_stream
from nepa_scale.distributed.world import World
from nepa_scale.engine.engine import Batch
from nepa_scale.placement.resolved import ResolvedTask
from nepa_scale.tasks.task import Task
from nepa_scale.utils.errors import DataError


class Batches:
    """This rank's micro-batches of each step from ``start`` on.

    Attributes:
        current: those of the step that was fetched last.
        error: why there are none, if there are none.
        wait_seconds: time spent waiting for data since it was last set to zero.
        replaced: images that others stood in for, in all batches fetched so far.
        last_fault: what was wrong with the last of them.
    """

    def __init__(
        self,
        task: Task,
        resolved: ResolvedTask,
        *,
        world: World,
        device: torch.device,
        start: int,
        total_steps: int,
    ) -> None:
        config, placement = resolved.config, resolved.placement
        self.current: list[Batch] = []
        self.error: str | None = None
        self.wait_seconds = 0.0
        self.replaced = 0
        self.last_fault: str | None = None
        self._log = FaultLog()
        self._faults: deque[list[str]] = deque()  # of the batches read, some of them ahead of being fetched
        self._batch_size, self._start = task.section.batch_size, start
        self._num_images = len(task.train_data)
        self._max_bad_fraction = config.data.max_bad_fraction
        folder = folder_of(Path(config.data.root), task.section.dataset)
        self._verify = prepare_command("verify", root=folder.parent, name=folder.name)
        self._accumulation = placement.accumulation
        open_loader = train_stream if config.data.streaming else train_loader
        loader = open_loader(
            task.train_data,
            batch_size=self._batch_size,
            micro_batch_size=placement.micro_batch_size,
            seed=config.seed,
            start_step=start,
            total_steps=total_steps,
            rank=world.rank,
            world_size=world.size,
            num_workers=config.data.num_workers,
        )
        self._stream = prefetched(self._split(loader), device, task.standard)

    def fetch(self) -> None:
        """Get the next step's micro-batches ready, or note in ``error`` why that cannot be."""
        before = time.perf_counter()
        try:
            self.current = list(itertools.islice(self._stream, self._accumulation))
            for _ in self.current:
                self._count(self._faults.popleft())
        except DataError as error:
            self.error = str(error)
        self.wait_seconds += time.perf_counter() - before

    def too_many_faults(self, done: int, replaced: int) -> str | None:
        """Why the run must end after ``done`` steps and this many replaced images on all ranks, if it must.

        Both count from the start of this process: mended data must be able to continue a run that bad data ended.
        """
        first, last = self._start * self._batch_size, (done + 1) * self._batch_size - 1
        epochs = last // self._num_images - first // self._num_images + 1
        allowed = allowed_faults(self._max_bad_fraction, self._num_images, epochs)
        if replaced <= allowed:
            return None
        return (
            f"{replaced} images could not be used and were replaced, more than the {allowed} that "
            f"data.max_bad_fraction={self._max_bad_fraction:g} allows; "
            f"`{self._verify}` lists all of them; the last: "
        )

    def _count(self, faults: list[str]) -> None:
        self.replaced += len(faults)
        self._log.add(faults)
        if faults:
            self.last_fault = faults[-1]

    def _split(self, loader: Iterable[Loaded]) -> Iterator[Batch]:
        """The batches alone; their faults wait until they are fetched, for batches are read ahead of that."""
        for loaded in loader:
            self._faults.append(loaded.faults)
            yield _as_tuple(loaded.batch)


def _as_tuple(item: Any) -> Batch:
    return tuple(item) if isinstance(item, list | tuple) else (item,)
