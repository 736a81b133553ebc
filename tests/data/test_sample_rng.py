"""Randomness of one sample."""
# ruff: noqa: NPY002 (the global generator is what augmentations draw from)

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from randomness import sample_randomness


def draws() -> tuple[float, float, float]:
    """One number from each of the three generators that augmentations use."""
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_the_same_sample_draws_the_same_whatever_came_before() -> None:
    """Augmentation is a function of (seed, epoch, index) alone."""
    with sample_randomness(1, 2, 3):
        first = draws()
    draws()
    with sample_randomness(1, 2, 3):
        assert draws() == first


def test_seed_epoch_and_index_all_matter_in_all_three_generators() -> None:
    """No generator repeats its numbers when any of the three changes, nor when they trade places."""
    seen = []
    for place in [(1, 2, 3), (2, 1, 3), (1, 3, 2), (3, 2, 1), (1, 2, 4), (12, 3, 0), (1, 23, 0)]:
        with sample_randomness(*place):
            seen.append(draws())
    for numbers in zip(*seen, strict=True):
        assert len(set(numbers)) == len(seen)


def test_generators_go_on_as_if_nothing_had_happened() -> None:
    """Training's own randomness (dropout, mixup) does not depend on what its process has loaded."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    expected = draws(), draws()
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    first = draws()
    with sample_randomness(0, 0, 0):
        draws()
    assert (first, draws()) == expected


def test_generators_are_restored_after_an_error() -> None:
    """A sample that fails leaves no trace either."""
    random.seed(0)
    expected = random.random()
    random.seed(0)
    with pytest.raises(ValueError, match="broken"), sample_randomness(0, 0, 0):
        raise ValueError("broken")
    assert random.random() == expected
