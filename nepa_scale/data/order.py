"""Which image comes when: a pure function of (seed, lengths of the shards), for any number of processes.

The stream of samples is endless: epoch 0, epoch 1, ..., each an order of its own. Step ``s`` takes its positions
``[s * batch_size, (s + 1) * batch_size)``, so a run resumes exactly from its step number alone.

Within an epoch the shards are shuffled, cut into windows of ``WINDOW_SHARDS``, and the samples of each window are
shuffled: reading stays within a few files at a time, which disks and network file systems need, and a batch still
mixes tens of thousands of images. With ``WINDOW_SHARDS`` shards or fewer every order of all samples is equally likely.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nepa_scale.utils.errors import ConfigError, DataError

WINDOW_SHARDS = 32

EpochIndex = tuple[int, int]  # (epoch, index of a sample)

_EPOCH_STREAM, _SUBSET_STREAM, _TUNING_STREAM = range(3)  # keep the uses of one seed independent


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
        order = order[_in_rounds(labels[order], rng)]
    return order[:num_images]


def _in_rounds(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Arrange samples so that each round takes one of every class, in an order of its own; [N]."""
    by_class = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    rounds = np.empty_like(by_class)
    rounds[by_class] = np.arange(len(labels)) - np.repeat(starts, counts)
    return np.lexsort((rng.random(len(labels)), rounds))


def kept_out(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Choose ``count`` images that no run trains on, by their ``labels`` [num_samples] alone: indices [count].

    Each round takes one of every class, the first class first, and the last image of a class is taken after all
    others. A smaller choice is a part of a larger one. Raises ``DataError`` where it leaves no image.
    """
    if not 1 <= count < len(labels):
        raise DataError(f"cannot keep {count} images out of training: the split has {len(labels)}")
    order = np.random.default_rng(_TUNING_STREAM).permutation(len(labels))
    shuffled = labels[order]
    by_class = np.argsort(shuffled, kind="stable")
    _, starts, sizes = np.unique(shuffled[by_class], return_index=True, return_counts=True)
    rounds, is_last = np.empty_like(by_class), np.zeros(len(labels), dtype=bool)
    rounds[by_class] = np.arange(len(labels)) - np.repeat(starts, sizes)
    is_last[by_class[starts + sizes - 1]] = True
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

    def place(self, position: int) -> EpochIndex:
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
    """Return this rank's part of a step: [accumulation][micro_batch_size] places.

    The rank takes every ``world_size``-th position of the global batch, from ``rank`` on; over all ranks and
    micro-steps every position occurs exactly once.
    """
    accumulation = accumulation_steps(batch_size, micro_batch_size, world_size)
    own = batch_positions(step, batch_size)[rank::world_size]
    return [
        [order.place(position) for position in own[first : first + micro_batch_size]]
        for first in range(0, accumulation * micro_batch_size, micro_batch_size)
    ]
