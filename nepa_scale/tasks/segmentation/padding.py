"""Images whose sides are no multiple of the patch: padded for the backbone, with scores for the image alone.

512 pixels are 36.6 patches of 14. The image is padded around its centre to the next multiple, 518, as DINOv2 does
for segmentation, with the mean: zero in normalised images. Scores are brought to the padded size and cut back,
so loss and metrics see exactly the image's own pixels, each at its place.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


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
    whole = F.interpolate(scores, size=padded, mode="bilinear", align_corners=False)
    return whole[..., top : top + height, left : left + width]


def _margins(length: int, patch_size: int) -> tuple[int, int]:
    missing = -length % patch_size
    return missing // 2, missing - missing // 2
