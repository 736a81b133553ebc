"""How much of what pre-training is to predict is nothing but brightness and colour.

NEPA's target is a linear map of the next patch. Where most of a patch's energy is one vector that all
patches share, one constant answer has a high cosine, and predicting teaches little else: ``target_warnings`` says when.
"""

from __future__ import annotations

import torch
from torch import Tensor


def patch_energy(images: Tensor, patch_size: int) -> dict[str, float]:
    """The parts of the energy (sum of squares) of the patches of images [B, C, H, W], as the model sees them.

    ``mean_colour``: of each patch's own mean in each channel. ``mean_patch``: of the mean of all patches, which a
    constant prediction could reach. Both are 0 for images without any energy.
    """
    height, width = (side // patch_size * patch_size for side in images.shape[-2:])
    tiles = images[..., :height, :width].unfold(2, patch_size, patch_size).unfold(3, patch_size, patch_size)
    total = _energy(tiles)  # of [B, C, h, w, p, p]
    mean_patch = tiles.mean((0, 2, 3), dtype=torch.float64)
    shares = {
        "mean_colour": _energy(tiles.mean((-2, -1))) * patch_size**2,
        "mean_patch": _energy(mean_patch) * tiles.numel() / mean_patch.numel(),
    }
    return {name: share / total if total else 0.0 for name, share in shares.items()}


def _energy(x: Tensor) -> float:
    return x.square().sum(dtype=torch.float64).item()
