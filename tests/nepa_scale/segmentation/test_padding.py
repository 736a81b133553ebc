"""Images that are no whole number of patches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tasks import config_of, with_random_weights

from nepa_scale.tasks.segment import Segment
from nepa_scale.tasks.segmentation.sliding_window import pad_to_patches, scores_of_image


def test_512_at_patch_14_is_padded_to_518() -> None:
    """Three rows of mean grey on every side; the image keeps its values in the middle."""
    images = torch.rand(1, 3, 512, 512) + 1
    padded = pad_to_patches(images, 14)
    assert padded.shape == (1, 3, 518, 518)
    assert torch.equal(padded[:, :, 3:-3, 3:-3], images)
    assert padded.count_nonzero() == images.numel()


def padded_size(side: int, patch: int) -> int:
    """The next multiple of the patch."""
    return -(-side // patch) * patch


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 16))
@settings(deadline=None)
def test_padding_and_cutting_back_are_inverse(height: int, width: int, patch: int) -> None:
    """Any size is padded to the fewest whole patches, at both ends alike, and its scores come back to their pixels."""
    image = torch.rand(1, 2, height, width)
    padded = pad_to_patches(image, patch)
    assert padded.shape[-2:] == (padded_size(height, patch), padded_size(width, patch))
    assert all(0 <= size - side < patch for size, side in zip(padded.shape[-2:], (height, width), strict=True))
    assert torch.equal(scores_of_image(padded, height, width, patch), image)
    weight = torch.ones_like(image)
    rows, columns = (pad_to_patches(weight, patch)[0, 0].any(dim).nonzero().flatten() for dim in (1, 0))
    assert 0 <= (padded.shape[2] - 1 - int(rows[-1])) - int(rows[0]) <= 1
    assert 0 <= (padded.shape[3] - 1 - int(columns[-1])) - int(columns[0]) <= 1


@pytest.mark.parametrize(("height", "width"), [(50, 50), (45, 60)])
def test_scores_are_those_of_the_padded_image(digits_root: Path, height: int, width: int) -> None:
    """At patch 14 the model sees 56 pixels; the scores are its scores there, cut to the image. Loss sees no others."""
    config = config_of(digits_root, "segment", "init=scratch", "model.patch_size=14", "segment.image_size=50")
    task = with_random_weights(Segment(config, None))
    assert task.backbone.patch_embed.img_size == (56, 56)
    module, images = task.module.eval(), torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    high, wide = padded_size(height, 14), padded_size(width, 14)
    top, left = (high - height) // 2, (wide - width) // 2
    padded = F.pad(images, (left, wide - width - left, top, high - height - top))
    with torch.no_grad():
        expected = module.logits(padded)[..., top : top + height, left : left + width]
        assert torch.equal(module.logits(images), expected)
        masks = torch.randint(0, 11, (2, height, width), generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(module(images, masks), F.cross_entropy(expected, masks))
