"""Class scores of images of any size: by a sliding window or in one piece, each padded to whole patches.

512 pixels are 36.6 patches of 14. The image is padded around its centre to the next multiple, 518, as DINOv2 does
for segmentation, with the mean: zero in normalised images. Scores are brought to the padded size and cut back,
so loss and metrics see exactly the image's own pixels, each at its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Score = Callable[[Tensor], Tensor]


class View(NamedTuple):
    """A part of an image that the model scores in one piece; ``last`` closes the image."""

    image: int
    top: int
    left: int
    height: int
    width: int
    last: bool


def slide(
    score: Score, images: Sequence[Tensor], window: int | None, *, pixels: int, agree: Callable[[int], int]
) -> Iterator[Tensor]:
    """Yield class scores [C, H, W] of each image [3, H, W]: the mean over the windows of side ``window`` on a pixel.

    Windows overlap by at least a third and the last ones end at the image's edge (mmsegmentation's "slide" test); a
    side shorter than the window is covered by one shorter window. ``window=None`` scores each image in one piece.

    Consecutive windows of one shape share a pass of ``score``, [n, 3, h, w] -> [n, C, h, w], of about ``pixels``
    pixels at most. A pass may be a collective (ZeRO-3): ``agree`` maps this rank's number of passes to the largest
    one, and the first pass is repeated, uncounted, up to it. For that the iterator must be exhausted.
    """
    passes = group_views(views_of(images, window), pixels)
    missing = agree(len(passes)) - len(passes)  # before the first pass: another rank may wait in its last
    total = hits = torch.empty(0)
    for group in passes:
        for view, part in zip(group, score(_cut(images, group)), strict=True):
            if not len(hits):
                size = images[view.image].shape[-2:]
                total, hits = part.new_zeros(len(part), *size), part.new_zeros(1, *size)
            rows, columns = slice(view.top, view.top + view.height), slice(view.left, view.left + view.width)
            total[:, rows, columns] += part
            hits[:, rows, columns] += 1
            if view.last:
                yield total.div_(hits)
                total = hits = torch.empty(0)
    for _ in range(missing):
        score(_cut(images, passes[0]))


def views_of(images: Sequence[Tensor], window: int | None) -> list[View]:
    """The parts of all images, in order."""
    views = []
    for index, image in enumerate(images):
        height, width = image.shape[-2:]
        high, wide = (height, width) if window is None else (min(window, height), min(window, width))
        corners = [(top, left) for top in window_starts(height, high) for left in window_starts(width, wide)]
        views += [View(index, *corner, high, wide, last=corner == corners[-1]) for corner in corners]
    return views


def group_views(views: Sequence[View], pixels: int) -> list[list[View]]:
    """Cut a sequence of parts into passes: of one shape, and of at most ``pixels`` pixels but at least one part."""
    groups: list[list[View]] = []
    for view in views:
        size = view.height, view.width
        fits = groups and (groups[-1][0].height, groups[-1][0].width) == size
        if fits and (len(groups[-1]) + 1) * view.height * view.width <= pixels:
            groups[-1].append(view)
        else:
            groups.append([view])
    return groups


def window_starts(length: int, window: int) -> list[int]:
    """First pixels of the windows that cover ``length`` pixels."""
    stride = max(1, window * 2 // 3)
    last = max(0, length - window)
    return [*range(0, last, stride), last]


def _cut(images: Sequence[Tensor], views: Sequence[View]) -> Tensor:
    return torch.stack(
        [images[view.image][:, view.top :, view.left :][:, : view.height, : view.width] for view in views]
    )


def pad_to_patches(images: Tensor, patch_size: int, *, own_mean: bool = False) -> Tensor:
    """Pad images [B, C, H, W] to whole patches, at the two ends of a side alike (an odd pixel at the far end).

    ``own_mean``: each channel's mean becomes zero first, for a model that subtracts it anyway.
    """
    if own_mean:
        images = images - images.mean((-2, -1), keepdim=True)
    (top, bottom), (left, right) = (_margins(side, patch_size) for side in images.shape[-2:])
    return F.pad(images, (left, right, top, bottom))


def scores_of_image(scores: Tensor, height: int, width: int, patch_size: int) -> Tensor:
    """Scores [B, C, h, w] of padded images -> [B, C, height, width] of the images before padding (bilinear)."""
    (top, bottom), (left, right) = _margins(height, patch_size), _margins(width, patch_size)
    padded = top + height + bottom, left + width + right
    of_padded = F.interpolate(scores, size=padded, mode="bilinear", align_corners=False)
    return of_padded[..., top : top + height, left : left + width]


def _margins(length: int, patch_size: int) -> tuple[int, int]:
    missing = -length % patch_size
    return missing // 2, missing - missing // 2
