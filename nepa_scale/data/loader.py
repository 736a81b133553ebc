"""Loaders that read in the order of ``order.py``, whatever the number of workers and processes."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
from collections.abc import Iterator
from multiprocessing.context import ForkContext, ForkProcess
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from nepa_scale.data.order import micro_batches
from nepa_scale.errors import DataError
from nepa_scale.signals import STOP_SIGNALS


class MicroBatches(Sampler[list[tuple[int, int]]]):
    """The places (epoch, index) of this rank's micro-batches, from ``start_step`` to ``total_steps``."""

    def __init__(
        self,
        num_samples: int,
        *,
        batch_size: int,
        micro_batch_size: int,
        seed: int,
        start_step: int,
        total_steps: int,
        rank: int,
        world_size: int,
    ) -> None:
        self._steps = range(start_step, total_steps)
        self._arguments = {
            "batch_size": batch_size,
            "micro_batch_size": micro_batch_size,
            "rank": rank,
            "world_size": world_size,
            "num_samples": num_samples,
            "seed": seed,
        }
        self._accumulation = len(micro_batches(start_step, **self._arguments))

    def __len__(self) -> int:
        return len(self._steps) * self._accumulation

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in self._steps:
            yield from micro_batches(step, **self._arguments)


class _Worker(ForkProcess):
    """A worker process. It ignores SIGTERM, so whoever would terminate it has to kill it."""

    def terminate(self) -> None:
        self.kill()


class _Context(ForkContext):
    Process = _Worker


@atexit.register
def _kill_workers() -> None:
    """End workers that an error kept alive: multiprocessing would send them SIGTERM and wait for ever."""
    for process in multiprocessing.active_children():
        if isinstance(process, _Worker):
            process.kill()


class _Loader(DataLoader[Any]):
    """A loader whose workers report bad data in one line, as the training process itself would."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except DataError as error:  # torch puts the worker's whole traceback before the message
            raise DataError(str(error).strip().rpartition("DataError: ")[2]) from None


def train_loader(
    dataset: Dataset[Any],
    *,
    batch_size: int,
    micro_batch_size: int,
    seed: int,
    start_step: int,
    total_steps: int,
    rank: int,
    world_size: int,
    num_workers: int,
) -> DataLoader[Any]:
    """Yield this rank's micro-batches, ``batch_size / (micro_batch_size * world_size)`` for each step.

    The first belongs to ``start_step``: the position in the data is the step, nothing else has to be saved.
    """
    sampler = MicroBatches(
        len(dataset),  # type: ignore[arg-type]
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        seed=seed,
        start_step=start_step,
        total_steps=total_steps,
        rank=rank,
        world_size=world_size,
    )
    return _loader(dataset, num_workers=num_workers, batch_sampler=sampler)


def eval_loader(
    dataset: Dataset[Any],
    *,
    batch_size: int,
    rank: int,
    world_size: int,
    num_workers: int,
    stack: bool = True,
) -> DataLoader[Any]:
    """Yield every ``world_size``-th sample from ``rank`` on: over all ranks each sample once, nothing padded.

    Ranks may get unequal numbers of batches, so sum counts after the loop. ``stack=False`` yields lists of
    samples, for images of unequal sizes.
    """
    places = [(0, index) for index in range(rank, len(dataset), world_size)]  # type: ignore[arg-type]
    collate = {} if stack else {"collate_fn": list}
    return _loader(dataset, num_workers=num_workers, batch_size=batch_size, sampler=places, **collate)


def _loader(dataset: Dataset[Any], *, num_workers: int, **arguments: Any) -> DataLoader[Any]:
    return _Loader(
        dataset,
        num_workers=num_workers,
        multiprocessing_context=_Context() if num_workers else None,
        worker_init_fn=_start_worker,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # or the loader would draw from training's own generator
        **arguments,
    )


def _start_worker(_worker: int) -> None:
    """Leave signals to the training process, which ends its workers itself, and compute in one thread."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
