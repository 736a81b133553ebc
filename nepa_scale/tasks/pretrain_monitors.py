"""Whether pre-training's target is worth predicting: its collapse while training, its constant part before.

*Collapse*: NEPA's target is the model's own embedding, so a model that maps every patch to one vector has the lowest
loss there is and has learnt nothing. stop-gradient and the clean input prevent it; a wrong setting may not.

*Constant part*: the target is a linear map of the next patch. Where most of a patch's energy is one vector that all
patches share, one constant answer has a high cosine, and predicting teaches little else (``target_warnings``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nepa_scale.distributed.process_group import sum_over_ranks


class Spread:
    """Sums over training batches, of all ranks, from which ``compute`` derives how far embeddings differ.

    ``num_prefix_tokens``: tokens before the first patch.
    """

    def __init__(self, num_prefix_tokens: int) -> None:
        self._prefix = num_prefix_tokens
        self._sums: list[Tensor] = []

    @torch.no_grad()
    def update(self, z: Tensor, z_hat: Tensor) -> None:
        """Add a batch of embeddings [B, P + N, D] and of predictions, which may lack the last position."""
        patches, predictions = (F.normalize(x[:, self._prefix :].detach().float(), dim=-1) for x in (z, z_hat))
        neighbours = (patches[:, :-1] * patches[:, 1:]).sum(-1)
        numbers = [patches[..., 0].numel(), predictions[..., 0].numel(), neighbours.numel()]
        counts = torch.tensor(numbers, device=z.device, dtype=torch.float32)
        sums = [patches.sum((0, 1)), predictions.sum((0, 1)), neighbours.sum()[None], counts]
        self._sums = [old + new for old, new in zip(self._sums, sums, strict=True)] if self._sums else sums

    def compute(self) -> dict[str, float]:
        """The metrics over all ranks, which all call this; empty if there was no batch.

        * ``target_std``, ``prediction_std``: root of the mean squared distance of the unit vectors of patches from
          their mean, sqrt(1 - |mean|^2): 1 where they point everywhere, 0 where all are the same.
        * ``neighbour_cosine``: mean cosine of the embeddings of neighbouring patches, 1 where all are the same.
        """
        if not self._sums:
            return {}
        sum_over_ranks(self._sums)
        targets, predictions, neighbours, counts = self._sums
        means = (targets / counts[0], predictions / counts[1])
        stds = [(1 - mean.square().sum()).clamp(min=0).sqrt() for mean in means]
        cosine = neighbours[0] / counts[2]
        values = torch.stack([*stds, cosine]).tolist()
        return dict(zip(("target_std", "prediction_std", "neighbour_cosine"), values, strict=True))


def patch_energy(images: Tensor, patch_size: int) -> dict[str, float]:
    """The parts of the energy (sum of squares) of the patches of images [B, C, H, W], as the model sees them.

    ``mean_colour``: of each patch's own mean in each channel. ``mean_patch``: of the mean of all patches, which a
    constant prediction could reach. Both are 0 for images without any energy.
    """
    height, width = (side // patch_size * patch_size for side in images.shape[-2:])
    tiles = images[..., :height, :width].unfold(2, patch_size, patch_size).unfold(3, patch_size, patch_size)
    total = _energy(tiles)  # of [B, C, h, w, p, p]
    mean_patch = tiles.mean((0, 2, 3), dtype=torch.float64)
    parts = {
        "mean_colour": _energy(tiles.mean((-2, -1))) * patch_size**2,
        "mean_patch": _energy(mean_patch) * tiles.numel() / mean_patch.numel(),
    }
    return {name: energy / total if total else 0.0 for name, energy in parts.items()}


def _energy(x: Tensor) -> float:
    return x.square().sum(dtype=torch.float64).item()
