"""Which sample a reader of a stream gives when: a pure function of (seed, lengths of the shards, reader).

Ranks x workers are the readers. In each epoch all shards are shuffled alike for all of them and then dealt out, so
that a reader sees other shards every time and all readers together see every sample once. A reader mixes its samples
in a buffer of ``BUFFER_SAMPLES``, as webdataset does, but empties it when its epoch ends, so that whole epochs can be
passed over by counting.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BUFFER_SAMPLES = 1000

_SHARDS_STREAM, _BUFFER_STREAM = 2, 3  # 0 and 1 are those of order.py


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
