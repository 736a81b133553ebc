"""Drawing for one sample, as a data set does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nepa_scale.data.datasets import preserved_randomness, seed_sample


@contextmanager
def sample_randomness(seed: int, epoch: int, index: int) -> Iterator[None]:
    """Draw for this sample inside; leave the global generators as they were."""
    with preserved_randomness():
        seed_sample(seed, epoch, index)
        yield
