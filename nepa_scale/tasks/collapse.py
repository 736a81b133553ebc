"""Whether pre-training's learned target is about to become the same everywhere: figures of the batches trained on.

NEPA's target is the model's own embedding, so a model that maps every patch to one vector has the lowest loss there is
and has learnt nothing. stop-gradient and the clean input keep it from that; a wrong setting may not.
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
        """The figures over all ranks, which all call this; empty if there was no batch.

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
