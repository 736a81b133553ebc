"""Scores of images of any size: by windows, in one piece, and where they are no whole number of patches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tasks import config_of, with_random_weights
from torch import Tensor

from nepa_scale.tasks.segment import Segment
from nepa_scale.tasks.sliding_window import (
    group_views,
    pad_to_patches,
    scores_of_image,
    slide,
    views_of,
    window_starts,
)


@given(window=st.integers(1, 80), extra=st.integers(0, 300))
def test_windows_cover_every_pixel(window: int, extra: int) -> None:
    """Windows stay inside, none stands twice, neighbours overlap by a third, no pixel is left out."""
    length = window + extra
    starts = window_starts(length, window)
    covered = np.zeros(length, dtype=int)
    for start in starts:
        assert 0 <= start <= length - window
        covered[start : start + window] += 1
    assert covered.min() >= 1
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert (steps <= max(1, window * 2 / 3)).all()


def test_image_of_one_window_is_scored_once() -> None:
    """A square image as large as the window needs no averaging."""
    assert window_starts(48, 48) == [0]
    assert window_starts(49, 48) == [0, 1]
    assert window_starts(112, 48) == [0, 32, 64]


def scored(
    score: Callable[[Tensor], Tensor], images: list[Tensor], window: int | None, pixels: int = 500
) -> list[Tensor]:
    """The scores of all images, on a single rank."""
    return list(slide(score, images, window, pixels=pixels, agree=lambda passes: passes))


def image(height: int, width: int, seed: int = 0) -> Tensor:
    """Whole numbers, so that sums and means are exact."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 100, (3, height, width), generator=generator).double()


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=3), st.none() | st.integers(1, 12)
)
@settings(deadline=None)
def test_per_pixel_scores_come_back_exactly(extra: list[tuple[int, int]], window: int | None) -> None:
    """Scores that depend on the pixel alone are the same from windows as from the whole image, however small."""

    def score(images: Tensor) -> Tensor:
        return torch.stack([images.sum(1), 7 * images[:, 0], -images[:, 2], images[:, 1] + 1], dim=1)

    images = [image(1 + high, 1 + wide, seed) for seed, (high, wide) in enumerate(extra)]
    for whole, scores in zip(images, scored(score, images, window), strict=True):
        assert torch.equal(scores, score(whole[None])[0])


def test_overlapping_windows_are_averaged() -> None:
    """A pixel's score is the plain mean over the windows that see it, worked out pixel by pixel."""
    window, (height, width) = 6, (11, 9)

    def score(images: Tensor) -> Tensor:
        return images.mean((2, 3), keepdim=True).expand(-1, -1, window, window)

    whole = image(height, width)
    [scores] = scored(score, [whole], window)
    rows, columns = window_starts(height, window), window_starts(width, window)
    for y in range(height):
        for x in range(width):
            seen_by = [
                whole[:, top : top + window, left : left + window].mean((1, 2))
                for top in rows
                for left in columns
                if 0 <= y - top < window and 0 <= x - left < window
            ]
            torch.testing.assert_close(scores[:, y, x], torch.stack(seen_by).mean(0), rtol=1e-12, atol=1e-12)


def test_windows_share_passes_of_bounded_size() -> None:
    """Consecutive windows of one shape go together, up to the number of pixels; a larger one goes alone."""
    calls = []

    def score(images: Tensor) -> Tensor:
        calls.append(tuple(images.shape))
        return images

    scored(score, [image(8, 8), image(8, 20), image(13, 8), image(6, 8), image(6, 8)], 8, pixels=4 * 64)
    assert calls == [(4, 3, 8, 8), (3, 3, 8, 8), (2, 3, 6, 8)]
    calls.clear()
    scored(score, [image(8, 20), image(8, 20), image(4, 4)], None, pixels=100)
    assert calls == [(1, 3, 8, 20), (1, 3, 8, 20), (1, 3, 4, 4)]


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1), st.integers(1, 12), st.integers(1, 900))
def test_passes_keep_every_window_in_order(sizes: list[tuple[int, int]], window: int, pixels: int) -> None:
    """Grouping loses and moves nothing, mixes no shapes and keeps to the bound; each image is closed once."""
    views = views_of([torch.empty(3, *size) for size in sizes], window)
    groups = group_views(views, pixels)
    assert [view for group in groups for view in group] == views
    assert [view.image for view in views if view.last] == list(range(len(sizes)))
    for group in groups:
        assert len({(view.height, view.width) for view in group}) == 1
        assert len(group) == 1 or sum(view.height * view.width for view in group) <= pixels


def test_ranks_make_equally_many_passes() -> None:
    """A rank with fewer passes than another repeats its first one, uncounted, after its last image."""
    calls = []

    def score(images: Tensor) -> Tensor:
        calls.append(images)
        return images

    images = [image(8, 8), image(5, 5)]
    found = list(slide(score, images, 8, pixels=64, agree=lambda passes: passes + 3))
    assert len(calls) == 2 + 3
    assert all(torch.equal(call, calls[0]) for call in calls[2:])
    assert all(torch.equal(scores, whole) for scores, whole in zip(found, images, strict=True))


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
