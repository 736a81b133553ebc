"""Which sample comes when: a pure function of (seed, lengths of the shards), for any number of processes.

Random access (``SampleOrder``): the stream of samples is endless, epoch 0, epoch 1, ..., each in an order of its own.
Step ``s`` takes its positions ``[s * batch_size, (s + 1) * batch_size)``, so a run resumes from its step number alone.
Within an epoch the shards are shuffled, cut into windows of ``WINDOW_SHARDS``, and the samples of each window are
shuffled: reading stays within a few files at a time, which disks and network file systems need, and a batch still
mixes tens of thousands of images. With ``WINDOW_SHARDS`` shards or fewer every order of all samples is equally likely.

Streams (``StreamOrder``): every worker of every rank is a reader. In each epoch all shards are shuffled alike for all
readers and then dealt out, so that a reader sees other shards every time and all readers together see every sample
once. A reader mixes its samples in a buffer of ``BUFFER_SAMPLES``, as webdataset does, but empties it when its epoch
ends, so that whole epochs can be skipped by counting.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nepa_scale.utils.errors import ConfigError, DataError

WINDOW_SHARDS = 32
BUFFER_SAMPLES = 1000

EpochIndex = tuple[int, int]
"""An epoch and the index of a sample."""

# These keep the uses of one seed independent. The tuning images' is not drawn from a run's seed.
_EPOCH_STREAM, _SUBSET_STREAM, _SHARDS_STREAM, _BUFFER_STREAM = range(4)
_TUNING_STREAM = 2


def subset(num_samples: int, num_images: int, seed: int, labels: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Choose ``num_images`` of ``num_samples`` images: indices [num_images].

    A smaller choice is a prefix of a larger one of the same seed. With ``labels`` [num_samples] every prefix holds
    each class equally often, to within one, until a class has no more. Raises ``DataError`` if there are too few.
    """
    if not 1 <= num_images <= num_samples:
        raise DataError(f"cannot choose {num_images} images: the split has {num_samples}")
    rng = np.random.default_rng([seed, _SUBSET_STREAM])
    order = rng.permutation(num_samples)
    if labels is not None:
        rounds, _ = _rounds(labels[order])
        order = order[np.lexsort((rng.random(num_samples), rounds))]  # each round in an order of its own
    return order[:num_images]


def _rounds(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Of each sample [N]: how many of its class come before it, which is the round that takes it, and whether it is the
    last of its class."""
    by_class = np.argsort(labels, kind="stable")
    _, starts, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    rounds, is_last = np.empty_like(by_class), np.zeros(len(labels), dtype=bool)
    rounds[by_class] = np.arange(len(labels)) - np.repeat(starts, sizes)
    is_last[by_class[starts + sizes - 1]] = True
    return rounds, is_last


def kept_out(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Choose ``count`` images that no run trains on, by their ``labels`` [num_samples] alone: indices [count].

    Each round takes one of every class, the first class first, and the last image of a class is taken after all
    others. A smaller choice is a part of a larger one. Raises ``DataError`` where it leaves no image.
    """
    if not 1 <= count < len(labels):
        raise DataError(f"cannot keep {count} images out of training: the split has {len(labels)}")
    order = np.random.default_rng(_TUNING_STREAM).permutation(len(labels))
    shuffled = labels[order]
    rounds, is_last = _rounds(shuffled)
    return order[np.lexsort((shuffled, rounds, is_last))[:count]]


class SampleOrder:
    """The order in which the samples of shards with these lengths are read."""

    def __init__(self, shard_lengths: Sequence[int], seed: int) -> None:
        self._lengths = np.asarray(shard_lengths, dtype=np.int64)
        self._starts = np.cumsum(self._lengths) - self._lengths
        self._seed = seed
        self._epochs: dict[int, NDArray[np.int64]] = {}
        self.num_samples = int(self._lengths.sum())

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """The indices of all samples in the order of this epoch, [N]."""
        if epoch not in self._epochs:
            # a batch may touch two epochs: keep these
            self._epochs = {number: order for number, order in self._epochs.items() if number == epoch - 1}
            self._epochs[epoch] = self._shuffled(np.random.default_rng([self._seed, _EPOCH_STREAM, epoch]))
        return self._epochs[epoch]

    def _shuffled(self, rng: np.random.Generator) -> NDArray[np.int64]:
        shards = rng.permutation(len(self._lengths))
        windows = []
        for first in range(0, len(shards), WINDOW_SHARDS):
            chosen = shards[first : first + WINDOW_SHARDS]
            samples = [np.arange(self._starts[shard], self._starts[shard] + self._lengths[shard]) for shard in chosen]
            windows.append(rng.permutation(np.concatenate(samples)))
        return np.concatenate(windows)

    def epoch_index(self, position: int) -> EpochIndex:
        """The (epoch, index) at a position of the stream."""
        epoch, offset = divmod(position, self.num_samples)
        return epoch, int(self.epoch(epoch)[offset])


def batch_positions(step: int, batch_size: int) -> range:
    """Return the stream positions of the global batch of optimiser step ``step`` (counted from 0)."""
    return range(step * batch_size, (step + 1) * batch_size)


def accumulation_steps(batch_size: int, micro_batch_size: int, world_size: int) -> int:
    """Return how many micro-batches a rank sums in one step. Raises ``ConfigError`` if not a whole number."""
    together = micro_batch_size * world_size
    if batch_size % together:
        raise ConfigError(
            [
                f"batch_size {batch_size} is not a multiple of micro_batch_size x processes = "
                f"{micro_batch_size} x {world_size} = {together}"
            ]
        )
    return batch_size // together


def micro_batches(
    order: SampleOrder, step: int, *, batch_size: int, micro_batch_size: int, rank: int, world_size: int
) -> list[list[EpochIndex]]:
    """Return this rank's samples of a step: [accumulation][micro_batch_size].

    The rank takes every ``world_size``-th position of the global batch, from ``rank`` on; over all ranks and
    micro-steps every position occurs exactly once.
    """
    accumulation = accumulation_steps(batch_size, micro_batch_size, world_size)
    positions = batch_positions(step, batch_size)[rank::world_size]
    return [
        [order.epoch_index(position) for position in positions[first : first + micro_batch_size]]
        for first in range(0, accumulation * micro_batch_size, micro_batch_size)
    ]


class StreamOrder:
    """The order in which reader ``reader`` of ``readers`` gives samples of shards with these lengths."""

    def __init__(self, shard_lengths: Sequence[int], seed: int, *, reader: int, readers: int) -> None:
        self._lengths = np.asarray(shard_lengths, dtype=np.int64)
        self._seed, self._reader, self._readers = seed, reader, readers

    def shards(self, epoch: int) -> NDArray[np.int64]:
        """The numbers of the shards that the reader reads in this epoch, in order."""
        shuffled = np.random.default_rng([self._seed, _SHARDS_STREAM, epoch]).permutation(len(self._lengths))
        # by turns, because where the shards do not divide the first ones dealt to have one more
        return shuffled[(self._reader + epoch) % self._readers :: self._readers]

    def count(self, epoch: int) -> int:
        """How many samples the reader gives in this epoch."""
        return int(self._lengths[self.shards(epoch)].sum())

    def positions(self, epoch: int) -> list[int]:
        """The samples of this epoch as they are given, each by its place in the order of reading."""
        rng = np.random.default_rng([self._seed, _BUFFER_STREAM, epoch, self._reader])
        return buffered(self.count(epoch), BUFFER_SAMPLES, rng)

    def locate(self, given: int) -> tuple[int, int]:
        """The epoch in which a reader is that has given so many samples, and how many of them were of that epoch."""
        epoch = 0
        while given >= (count := self.count(epoch)):
            given -= count
            epoch += 1
        return epoch, given


def buffered(count: int, size: int, rng: np.random.Generator) -> list[int]:
    """Put 0, 1, ..., ``count - 1`` through a shuffle buffer: once it is full, each takes the place of a random one."""
    buffer, given = list(range(min(size, count))), []
    for incoming, slot in enumerate(rng.integers(size, size=max(0, count - size)).tolist(), start=size):
        given.append(buffer[slot])
        buffer[slot] = incoming
    return given + rng.permutation(buffer).tolist()
