"""What pre-training asks of an objective, and the signs that its target is not worth predicting.

An ``Objective`` is a loss of images, and sums from which its evaluation is derived.

*Collapse* (``Spread``): NEPA's target is the model's own embedding, so a model that maps every patch to one vector has
the lowest loss there is and has learnt nothing. stop-gradient and the clean input prevent it; a wrong setting may not.

*Constant part* (``patch_energy``): the target is a linear map of the next patch. Where most of a patch's energy is one
vector that all patches share, one constant answer has a high cosine, and predicting teaches little else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nepa_scale.distributed.process_group import sum_over_ranks
from nepa_scale.models.nepa_vit import NepaViT


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


class EvaluationSums(Protocol):
    """Sums over evaluation batches, which processes add up before the metrics are derived from them."""

    def update(self, *scored: Tensor) -> None:
        """Add a batch: what ``Objective.scored`` returned for it."""

    def state_tensors(self) -> list[Tensor]:
        """The sums themselves, to be all-reduced in place (SUM); their shapes never change."""

    def compute(self) -> dict[str, float]:
        """The metrics over all batches; ``skill`` is 0 for the best answer without a model and 1 for a perfect one."""


class Objective(nn.Module, ABC):
    """Images [B, 3, H, W] -> what pre-training minimises, a scalar in fp32.

    The backbone is all that outlives pre-training: parameters of an objective's own are in its checkpoints, and not in
    the weights that fine-tuning starts from.
    """

    def __init__(self, backbone: NepaViT) -> None:
        super().__init__()
        self.backbone = backbone
        self.spread: Spread | None = None  # of the learned targets of the batches to come, where it is wanted

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """The loss of images [B, 3, H, W]; what it draws comes from torch's global generator."""

    @abstractmethod
    def scored(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the evaluation needs of images [B, 3, H, W]; nothing in it is drawn at random."""

    @abstractmethod
    def new_sums(self, device: torch.device) -> Any:
        """Empty ``EvaluationSums`` for what ``scored`` returns."""

    def compile_loss(self) -> None:
        """Compile what is worth it outside the backbone."""


def draw_mask(images: int, patches: int, ratio: float, device: torch.device) -> Tensor:
    """Draw which patches to mask, [images, patches]: round(ratio x patches) of each image, its own ones.

    Uniformly and without replacement, from torch's global generator.
    """
    order = torch.rand(images, patches, device=device).argsort(dim=1)
    return order < round(ratio * patches)


def masked_inputs(z: Tensor, mask: Tensor, token: Tensor) -> Tensor:
    """Put ``token`` [1, 1, D] in the place of the masked patches of embeddings z [B, P + N, D]; ``mask`` is [B, N]."""
    prefix = z.shape[1] - mask.shape[1]
    return torch.where(F.pad(mask, (prefix, 0), value=False)[..., None], token, z)
