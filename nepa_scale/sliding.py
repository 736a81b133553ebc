"""Whole-image scores from overlapping square windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def slide(score: Callable[[Tensor], Tensor], images: Sequence[Tensor], window: int) -> list[Tensor]:
    """Class scores [C, H, W] of each image [3, H, W]: the mean over the windows of side ``window`` on a pixel.

    Windows overlap by at least a third (mmsegmentation's "slide" test); the last ones end at the image's edge.
    The windows of all images are scored in one pass: ``score`` maps [n, 3, window, window] to [n, C, ...].
    """
    corners = [_corners(image, window) for image in images]
    windows = [
        image[:, top : top + window, left : left + window]
        for image, places in zip(images, corners, strict=True)
        for top, left in places
    ]
    parts = score(torch.stack(windows)).split([len(places) for places in corners])
    return [_blend(image, places, scores) for image, places, scores in zip(images, corners, parts, strict=True)]


def _corners(image: Tensor, window: int) -> list[tuple[int, int]]:
    height, width = image.shape[-2:]
    return [(top, left) for top in window_starts(height, window) for left in window_starts(width, window)]


def _blend(image: Tensor, corners: list[tuple[int, int]], scores: Tensor) -> Tensor:
    classes, window = scores.shape[1], scores.shape[-1]
    total = scores.new_zeros(classes, *image.shape[-2:])
    hits = scores.new_zeros(1, *image.shape[-2:])
    for (top, left), part in zip(corners, scores, strict=True):
        total[:, top : top + window, left : left + window] += part
        hits[:, top : top + window, left : left + window] += 1
    return total / hits


def window_starts(length: int, window: int) -> list[int]:
    """First pixels of the windows that cover ``length`` pixels."""
    stride = max(1, window * 2 // 3)
    last = max(0, length - window)
    return [*range(0, last, stride), last]
