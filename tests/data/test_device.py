"""Batches on the device."""

from __future__ import annotations

import numpy as np
import torch

from nepa_scale.data.loader import prefetched, to_device
from nepa_scale.data.preprocessing import MEAN, PAPERS, STD
from nepa_scale.data.transforms import normalise

CPU = torch.device("cpu")


def test_bytes_are_normalised_and_nothing_else_is_touched() -> None:
    """Images in bytes become [-1, 1]; labels, masks and images that are normalised already stay as they are."""
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    labels, masks, ready = torch.tensor([3]), torch.full((1, 2, 2), 255), torch.randn(1, 3, 2, 2)
    moved = to_device((images, [labels, masks], (ready,)), CPU, PAPERS)
    expected = (np.arange(256, dtype=np.float64) / 255 - MEAN[0]) / STD[0]
    np.testing.assert_allclose(moved[0].numpy().ravel(), expected, atol=1e-6)
    assert moved[0].dtype == torch.float32
    assert torch.equal(moved[1][0], labels)
    assert torch.equal(moved[1][1], masks)
    assert torch.equal(moved[2][0], ready)


def test_the_ends_of_the_range_are_exact() -> None:
    """Black is -1 and white is 1, to the last bit."""
    assert normalise(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


def test_every_batch_comes_once_and_in_order() -> None:
    """Nothing is lost or doubled on the way."""
    batches = [(torch.full((2,), number),) for number in range(5)]
    assert [batch[0][0].item() for batch in prefetched(batches, CPU, PAPERS)] == list(range(5))
