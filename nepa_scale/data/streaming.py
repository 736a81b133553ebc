"""Loaders that read shards from front to back, in the order of ``sampler.py``.

They yield what those of ``loader.py`` yield. The order depends on the numbers of processes and workers.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, default_collate, get_worker_info

from nepa_scale.data.datasets import Loaded, Samples, first_good, preserved_randomness
from nepa_scale.data.layout import too_few_shards
from nepa_scale.data.loader import as_it_is, worker_loader
from nepa_scale.data.sampler import StreamOrder, accumulation_steps
from nepa_scale.data.shard_stream import StreamSource
from nepa_scale.data.sources import Sample
from nepa_scale.utils.errors import DataError


def train_stream(
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

    The first belongs to ``start_step``. With the same numbers of processes and workers and the same micro-batch, a
    stream that starts there goes on as one that came there. Images that cannot be decoded are replaced.
    """
    source = _source(dataset)
    if problem := too_few_shards(len(source.shards), world_size, num_workers, remote=source.is_remote):
        raise DataError(problem)
    accumulation = accumulation_steps(batch_size, micro_batch_size, world_size)
    stream = _Training(
        dataset,
        micro_batch_size=micro_batch_size,
        seed=seed,
        micro_batches=range(start_step * accumulation, total_steps * accumulation),
        rank=rank,
        world_size=world_size,
    )
    return worker_loader(stream, num_workers=num_workers, batch_size=None, collate_fn=as_it_is)


def eval_stream(
    dataset: Samples[Any], *, batch_size: int, rank: int, world_size: int, num_workers: int, stack: bool = True
) -> DataLoader[Any]:
    """Yield the samples of every ``world_size``-th shard from ``rank`` on: over all ranks each sample once.

    Ranks may get unequal numbers of batches, or none: ``eval_passes`` says how many. A bad image is an error.
    """
    source = _source(dataset)
    shards = range(len(source.shards))[rank::world_size]
    stream = _Evaluation(dataset, shards, batch_size, stack=stack)
    return worker_loader(stream, num_workers=num_workers, batch_size=None, collate_fn=as_it_is)


def eval_passes(shard_lengths: Sequence[int], *, batch_size: int, rank: int, world_size: int, num_workers: int) -> int:
    """The number of batches that ``eval_stream`` yields on a rank: each worker makes its own of the shards it reads."""
    lengths, workers = shard_lengths[rank::world_size], max(1, num_workers)
    return sum(math.ceil(sum(lengths[worker::workers]) / batch_size) for worker in range(workers))


@dataclass(frozen=True)
class _Streamed:
    """A sample with its number in the data set, and what messages need to name it."""

    sample: Sample
    epoch: int
    number: int
    shard: str

    def where(self) -> str:
        return f"shard '{self.shard}', sample '{self.sample.key}'"


class _Training(IterableDataset[Loaded]):
    """The micro-batches of a rank with these numbers. Its workers make them in turn."""

    def __init__(
        self,
        dataset: Samples[Any],
        *,
        micro_batch_size: int,
        seed: int,
        micro_batches: range,
        rank: int,
        world_size: int,
    ) -> None:
        self._dataset, self._seed = dataset, seed
        self._micro_batch_size, self._micro_batches = micro_batch_size, micro_batches
        self._rank, self._world_size = rank, world_size

    def __iter__(self) -> Iterator[Loaded]:
        worker, workers = _this_worker()
        first, last = self._micro_batches.start, self._micro_batches.stop
        turn = (worker + first) % workers  # the loader asks worker 0 first, whatever the first number is
        done, todo = len(range(turn, first, workers)), len(range(first + worker, last, workers))
        source = _source(self._dataset)
        reader, readers = self._rank + self._world_size * turn, self._world_size * workers
        order = StreamOrder(source.lengths, self._seed, reader=reader, readers=readers)
        ahead = _Ahead(_endless(source, order, done * self._micro_batch_size))
        for _ in range(todo):
            faults: list[str] = []
            with preserved_randomness():
                items = [self._good(ahead, faults) for _ in range(self._micro_batch_size)]
            yield Loaded(default_collate(items), faults)

    def _good(self, ahead: _Ahead, faults: list[str]) -> Any:
        """The item of the next sample, or of the first good one after it, with its augmentation."""
        next_sample = next(ahead)
        return first_good(
            lambda instead: self._item(ahead.peek(instead - 1) if instead else next_sample, next_sample), faults
        )

    def _item(self, streamed: _Streamed, position: _Streamed) -> Any:
        return self._dataset.item(streamed.sample, position.epoch, position.number, streamed.where)


class _Ahead(Iterator[_Streamed]):
    """A stream with look-ahead: a sample that replaced a bad one still comes in its turn, so resumed runs agree."""

    def __init__(self, stream: Iterator[_Streamed]) -> None:
        self._stream = stream
        self._seen: deque[_Streamed] = deque()

    def __next__(self) -> _Streamed:
        return self._seen.popleft() if self._seen else next(self._stream)

    def peek(self, distance: int) -> _Streamed:
        """The sample ``distance`` after the next."""
        while len(self._seen) <= distance:
            self._seen.append(next(self._stream))
        return self._seen[distance]


def _endless(source: StreamSource, order: StreamOrder, given: int) -> Iterator[_Streamed]:
    """The samples of a reader, epoch after epoch, without those already given."""
    epoch, skipped = order.locate(given)
    while True:
        yield from _epoch(source, order, epoch, skipped)
        epoch, skipped = epoch + 1, 0


def _epoch(source: StreamSource, order: StreamOrder, epoch: int, skipped: int) -> Iterator[_Streamed]:
    """The samples of a reader in one epoch, without the first ``skipped`` of them."""
    positions = order.positions(epoch)
    wanted = np.zeros(len(positions), dtype=bool)
    wanted[positions[skipped:]] = True
    incoming = _wanted_samples(source, order.shards(epoch), wanted, epoch)
    waiting: dict[int, _Streamed] = {}
    for position in positions[skipped:]:
        while position not in waiting:
            waiting.update([next(incoming)])
        yield waiting.pop(position)
    for _ in incoming:  # there is none, but only reading a shard to its end checks that
        pass


def _wanted_samples(
    source: StreamSource, shards: NDArray[np.int64], wanted: NDArray[np.bool_], epoch: int
) -> Iterator[tuple[int, _Streamed]]:
    """The samples of these shards in order, with their positions; shards without a wanted one are not opened."""
    starts = np.cumsum(source.lengths) - source.lengths
    begin = 0
    for shard in shards.tolist():
        end = begin + source.lengths[shard]
        if wanted[begin:end].any():
            for number, sample in enumerate(source.read(shard)):
                if wanted[begin + number]:
                    yield begin + number, _Streamed(sample, epoch, int(starts[shard]) + number, source.shards[shard])
        begin = end


class _Evaluation(IterableDataset[Any]):
    """Batches of all samples of these shards, which the workers share."""

    def __init__(self, dataset: Samples[Any], shards: Sequence[int], batch_size: int, *, stack: bool) -> None:
        self._dataset, self._shards, self._batch_size = dataset, shards, batch_size
        self._collate = default_collate if stack else list

    def __iter__(self) -> Iterator[Any]:
        worker, workers = _this_worker()
        source = _source(self._dataset)
        own = np.array(self._shards[worker::workers], dtype=np.int64)
        everything = np.ones(sum(source.lengths[shard] for shard in own), dtype=bool)
        samples = _wanted_samples(source, own, everything, epoch=0)
        while chunk := [streamed for _, streamed in islice(samples, self._batch_size)]:
            with preserved_randomness():
                items = [self._dataset.item(each.sample, 0, each.number, each.where) for each in chunk]
            yield self._collate(items)


def _source(dataset: Samples[Any]) -> StreamSource:
    return cast(StreamSource, dataset.source)


def _this_worker() -> tuple[int, int]:
    """The number of this loader process and how many there are."""
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)
