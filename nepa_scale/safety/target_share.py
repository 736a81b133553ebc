"""How much of what pre-training is to predict is nothing but brightness and colour, which warns before and after it.

NEPA's target is a linear map of the next patch. Where most of a patch's energy is one vector that all
patches share, one constant answer has a high cosine, and predicting teaches little else.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

# Scenes of digits have 0.56 and photographs 0.05; by the set's own statistics it is 0.03 at most.
MOST_IN_MEAN_PATCH = 0.3
MOST_MEAN_BASELINE = 0.9
STANDARDISE = "data.mean=image data.std=image"


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


def before(energy: Mapping[str, float], *, by_image: bool) -> str | None:
    """The line that warns of images on which a constant answer is nearly right, if they are so."""
    if by_image or energy["mean_patch"] < MOST_IN_MEAN_PATCH:
        return None
    return (
        f"{energy['mean_patch']:.0%} of the energy of patches is their common mean, so one constant answer comes far,"
        f" and little else is learnt for long; {STANDARDISE} takes it out"
    )


def after(metrics: Mapping[str, float], *, by_image: bool) -> str | None:
    """The line that warns of a pre-training that predicts no better than a trivial answer, or hardly could."""
    skill, constant = metrics["skill"], metrics["mean_baseline"]
    if skill > 0 and constant < MOST_MEAN_BASELINE:
        return None
    found = f"skill {skill:.3f}: no better than a trivial answer" if skill <= 0 else f"skill {skill:.3f}"
    remedy = "train longer, or at another rate" if by_image else f"train longer, or with {STANDARDISE}"
    return f"{found} (one constant answer has a cosine of {constant:.3f}); {remedy}"
