"""Which image comes when: a pure function of (seed, number of samples), for any number of processes.

The stream of samples is endless: epoch 0, epoch 1, ..., each a permutation of its own. Step ``s`` takes its
positions ``[s * batch_size, (s + 1) * batch_size)``, so a run resumes exactly from its step number alone.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nepa_scale.errors import ConfigError, DataError

_EPOCH_STREAM, _SUBSET_STREAM = 0, 1  # keep the two uses of one seed independent


def subset(num_samples: int, num_images: int, seed: int) -> NDArray[np.int64]:
    """Choose ``num_images`` of ``num_samples`` images without looking at labels: indices [num_images].

    A smaller choice is a prefix of a larger one of the same seed. Raises ``DataError`` if there are too few.
    """
    if not 1 <= num_images <= num_samples:
        raise DataError(f"cannot choose {num_images} images: the split has {num_samples}")
    return np.random.default_rng([seed, _SUBSET_STREAM]).permutation(num_samples)[:num_images]


@lru_cache(maxsize=4)
def _epoch_order(num_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, _EPOCH_STREAM, epoch]).permutation(num_samples)


def batch_positions(step: int, batch_size: int) -> range:
    """Return the stream positions of the global batch of optimiser step ``step`` (counted from 0)."""
    return range(step * batch_size, (step + 1) * batch_size)


def sample_at(position: int, *, num_samples: int, seed: int) -> tuple[int, int]:
    """Return (epoch, index) at a stream position, with 0 <= index < ``num_samples``."""
    epoch, offset = divmod(position, num_samples)
    return epoch, int(_epoch_order(num_samples, seed, epoch)[offset])


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
    step: int,
    *,
    batch_size: int,
    micro_batch_size: int,
    rank: int,
    world_size: int,
    num_samples: int,
    seed: int,
) -> list[list[tuple[int, int]]]:
    """Return this rank's part of a step: [accumulation][micro_batch_size] pairs (epoch, index).

    Over all ranks and micro-steps every position of the global batch occurs exactly once.
    """
    accumulation = accumulation_steps(batch_size, micro_batch_size, world_size)
    positions = batch_positions(step, batch_size)
    starts = (micro_batch_size * (micro_step * world_size + rank) for micro_step in range(accumulation))
    return [
        [
            sample_at(position, num_samples=num_samples, seed=seed)
            for position in positions[start : start + micro_batch_size]
        ]
        for start in starts
    ]
