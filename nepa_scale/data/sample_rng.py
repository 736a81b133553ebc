"""Randomness that belongs to one sample: its augmentation is a function of (seed, epoch, index)."""
# ruff: noqa: NPY002 (timm's augmentations draw from numpy's global generator)

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def preserved_randomness() -> Iterator[None]:
    """Restore ``random``, ``numpy.random`` and torch's CPU generator afterwards.

    The generators of worker processes, and of training itself, are as if no sample had been drawn.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    torch_state = torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.default_generator.set_state(torch_state)


def seed_sample(seed: int, epoch: int, index: int) -> None:
    """Seed ``random``, ``numpy.random`` and torch's CPU generator for one sample."""
    digest = hashlib.blake2b(f"{seed},{epoch},{index}".encode(), digest_size=8).digest()
    sample_seed = int.from_bytes(digest, "little")
    random.seed(sample_seed)
    np.random.seed(sample_seed % 2**32)
    torch.default_generator.manual_seed(sample_seed)
