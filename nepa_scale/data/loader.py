"""Loaders that read in the order of ``sampler.py``, whatever the number of workers and processes, and prefetch."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import util
from multiprocessing.context import ForkContext, ForkProcess
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakSet

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from nepa_scale.data.datasets import BadSampleReplacer, Loaded, Samples
from nepa_scale.data.preprocessing import Standardisation
from nepa_scale.data.sampler import EpochIndex, SampleOrder, micro_batches
from nepa_scale.data.transforms import normalise
from nepa_scale.distributed.signals import STOP_SIGNALS
from nepa_scale.utils.errors import DataError

_SHORT_FOLDER = "/tmp"
_LONGEST_FOLDER = 107 - len("/pymp-12345678/listener-12345678")  # of 107 characters that Linux gives a socket's path
_REMEDY = "if memory was short, which SIGKILL mostly means, lower num_workers; a training continues by the same command"
#: On GPUs it is the thread that takes over batches which meets the end of a worker handing one over.
_WORKER_DEATHS = ("DataLoader worker", "Pin memory thread")
_DYING_SECONDS = 0.5  # until the system has its exit code
_WORKER_ERROR = re.compile(r"(?:^|\n)[\w.]*(?:DataError|BadImageError): ")


class MicroBatches(Sampler[list[EpochIndex]]):
    """The places of this rank's micro-batches, from ``start_step`` to ``total_steps``."""

    def __init__(
        self,
        order: SampleOrder,
        *,
        batch_size: int,
        micro_batch_size: int,
        start_step: int,
        total_steps: int,
        rank: int,
        world_size: int,
    ) -> None:
        self._order, self._steps = order, range(start_step, total_steps)
        self._arguments = {
            "batch_size": batch_size,
            "micro_batch_size": micro_batch_size,
            "rank": rank,
            "world_size": world_size,
        }
        self._accumulation = len(micro_batches(order, start_step, **self._arguments))

    def __len__(self) -> int:
        return len(self._steps) * self._accumulation

    def __iter__(self) -> Iterator[list[EpochIndex]]:
        for step in self._steps:
            yield from micro_batches(self._order, step, **self._arguments)


class _Worker(ForkProcess):
    """A worker process. It ignores SIGTERM, so whoever would terminate it has to kill it."""

    started: ClassVar[WeakSet[_Worker]] = WeakSet()

    def start(self) -> None:
        # The child inherits the mask: torch gives it a handler that dies of SIGTERM before ours can ignore that.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.started.add(self)

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
    """A loader that reports bad data, and the death of a worker, by an error of one line in the training process."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches = super().__iter__()
        if self.num_workers and threading.current_thread() is threading.main_thread():
            # torch would raise from its handler wherever training is, in the middle of a step; asking for the next
            # batch finds a dead worker, too.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            yield from batches
        except DataError as error:  # torch puts the worker's whole traceback before the message
            raise DataError(_WORKER_ERROR.split(str(error).strip())[-1]) from None
        except RuntimeError as error:
            if not any(words in str(error) for words in _WORKER_DEATHS):
                raise
            raise _death(error) from None
        except (ConnectionError, EOFError) as error:  # it died while it was handing over a batch
            raise _death(error) from None


def _death(error: Exception) -> DataError:
    time.sleep(_DYING_SECONDS)
    return DataError(f"a data-loading process died ({_exit_reasons() or error}); {_REMEDY}")


def _exit_reasons() -> str:
    """How dead workers ended, such as "killed by SIGKILL"."""
    codes = [worker.exitcode for worker in _Worker.started if worker.exitcode]
    names = [f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}" for code in codes]
    return ", ".join(names)


def train_loader(
    dataset: Samples[Any],
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
    """Yield this rank's micro-batches (``Loaded``), ``batch_size / (micro_batch_size * world_size)`` for each step.

    The first belongs to ``start_step``: the position in the data is the step, nothing else has to be saved. Images
    that cannot be decoded are replaced.
    """
    sampler = MicroBatches(
        SampleOrder(dataset.shard_lengths, seed),
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        start_step=start_step,
        total_steps=total_steps,
        rank=rank,
        world_size=world_size,
    )
    return worker_loader(
        BadSampleReplacer(dataset), num_workers=num_workers, batch_sampler=sampler, collate_fn=as_it_is
    )


def eval_loader(
    dataset: Samples[Any],
    *,
    batch_size: int,
    rank: int,
    world_size: int,
    num_workers: int,
    stack: bool = True,
    tolerant: bool = False,
) -> DataLoader[Any]:
    """Yield every ``world_size``-th sample from ``rank`` on: over all ranks each sample once, nothing padded.

    Ranks may get unequal numbers of batches, so sum counts after the loop. ``stack=False`` yields lists of
    samples, for images of unequal sizes. A bad image is an error, unless ``tolerant`` replaces it as in training.
    """
    places = [(0, index) for index in range(rank, len(dataset), world_size)]
    arguments: dict[str, Any] = {"num_workers": num_workers, "batch_size": batch_size, "sampler": places}
    collate: Callable[[list[Any]], Any] = default_collate if stack else list
    if tolerant:
        return worker_loader(BadSampleReplacer(dataset, collate), collate_fn=_batch_of, **arguments)
    return worker_loader(dataset, collate_fn=collate, **arguments)


def as_it_is(loaded: Loaded) -> Loaded:
    """Collate nothing: what is loaded is a batch."""
    return loaded


def _batch_of(loaded: Loaded) -> Any:
    return loaded.batch


def worker_loader(dataset: Dataset[Any], *, num_workers: int, **arguments: Any) -> DataLoader[Any]:
    """A loader with this project's worker processes; ``arguments`` are those of ``DataLoader``.

    Raises ``DataError`` where workers can have no sockets.
    """
    if num_workers:
        _make_room_for_sockets()
    return _Loader(
        dataset,
        num_workers=num_workers,
        multiprocessing_context=_Context() if num_workers else None,
        worker_init_fn=_start_worker,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # or the loader would draw from training's own generator
        **arguments,
    )


def _make_room_for_sockets() -> None:
    """Put this process's sockets, through which workers hand over batches, elsewhere than in a ``TMPDIR`` that is too
    long for them: a worker's queue would lose every batch, and training wait for ever."""
    usual = tempfile.gettempdir()
    if len(os.fsencode(usual)) > _LONGEST_FOLDER:
        tempfile.tempdir = _SHORT_FOLDER
    try:
        place = Path(util.get_temp_dir()).parent  # made once in a process and its workers, and removed at its end
    except OSError:
        place = Path(usual)
    finally:
        tempfile.tempdir = usual
    if len(os.fsencode(place)) > _LONGEST_FOLDER:
        raise DataError(
            f"TMPDIR={place}: longer than {_LONGEST_FOLDER} characters leaves no room for sockets of data-loading "
            "processes; set a shorter one, or num_workers=0"
        )


def _start_worker(_worker: int) -> None:
    """Leave signals to the training process, which ends its workers itself, and compute in one thread."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)


def prefetched(batches: Iterable[Any], device: torch.device, standard: Standardisation) -> Iterator[Any]:
    """Yield nested batches on ``device``, images in bytes normalised in float32.

    On a GPU the next batch is copied on a stream of its own, so that it is there when its turn comes.
    """
    if device.type != "cuda":
        for batch in batches:
            yield to_device(batch, device, standard)
        return
    stream, waiting = torch.cuda.Stream(device), None
    try:
        for batch in batches:
            with torch.cuda.stream(stream):
                coming = to_device(batch, device, standard)
            if waiting is not None:
                yield waiting
            torch.cuda.current_stream(device).wait_stream(stream)
            _used_by(coming, torch.cuda.current_stream(device))
            waiting = coming
    except DataError:  # of the batch behind the one that is waiting
        if waiting is not None:
            yield waiting
        raise
    if waiting is not None:
        yield waiting


def to_device(batch: Any, device: torch.device, standard: Standardisation) -> Any:
    """Move every tensor of a nested batch; images in bytes are normalised after the move, a quarter of the copy."""
    if isinstance(batch, Tensor):
        moved = batch.to(device, non_blocking=True)
        return normalise(moved, standard) if moved.dtype == torch.uint8 else moved
    return type(batch)(to_device(item, device, standard) for item in batch)


def _used_by(batch: Any, stream: Any) -> None:
    """Keep the memory of a batch until ``stream`` has used it, though another stream allocated it."""
    if isinstance(batch, Tensor):
        batch.record_stream(stream)
        return
    for item in batch:
        _used_by(item, stream)
