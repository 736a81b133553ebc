"""What pre-training asks of an objective: a loss of images, and sums from which its evaluation is derived."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nepa_scale.models.nepa_vit import NepaViT
from nepa_scale.tasks.pretrain_monitors import Spread


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
