"""MAE-style pre-training: hide most patches, and predict the pixels of those that are hidden."""

from __future__ import annotations

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from nepa_scale.config.task_settings import PretrainConfig
from nepa_scale.models.nepa_vit import NepaViT
from nepa_scale.tasks.objectives.objective import draw_mask, masked_inputs
from nepa_scale.tasks.objectives.pixels import PixelObjective, squared_error
from nepa_scale.tasks.task import parameter_dtype


class MaskedPixels(PixelObjective):
    """Images [B, 3, H, W] -> mean squared error of the normalised pixels of masked patches (MAE, arXiv 2111.06377).

    As in MAE: the target, the random masks and their ratio (0.75), the loss on masked patches alone, attention in all
    directions. Otherwise than in MAE, a learned token stands in the place of each masked patch in the encoder, which so
    sees every position, and one linear layer decodes its output: the form of SimMIM (arXiv 2111.09886). The backbone
    stays the one that the other objectives train, at the cost of computing masked positions, too.

    An evaluation masks the same patches in every image, drawn once for all runs.
    """

    def __init__(self, backbone: NepaViT, section: PretrainConfig) -> None:
        super().__init__(backbone)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, backbone.embed_dim))
        trunc_normal_(self.mask_token, std=0.02)
        self._ratio = section.mask_ratio

    def forward(self, images: Tensor) -> Tensor:
        """The loss, a scalar in fp32; masks are drawn from torch's global generator."""
        targets = self.targets(images)
        mask = self._drawn_mask(targets) if self.training else self._fixed_mask(targets)
        _, outputs = self._encoded(images, mask)
        errors = squared_error(self.pixel_head(outputs), targets)
        return (errors * mask).sum() / mask.sum()

    def scored(self, images: Tensor) -> tuple[Tensor, ...]:
        """Embeddings and outputs [B, N, D] of all patches; predictions and targets [B, M, C p p] of masked ones."""
        targets = self.targets(images)
        mask = self._fixed_mask(targets)
        z, outputs = self._encoded(images, mask)
        predicted = mask[0].nonzero()[:, 0]
        return z, outputs, self.pixel_head(outputs[:, predicted]), targets[:, predicted]

    def _encoded(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings and outputs [B, N, D] of the patches of masked images."""
        z, prefix = self.backbone.embed(images.to(parameter_dtype(self.backbone))), self.backbone.num_prefix_tokens
        outputs = self.backbone.encode(masked_inputs(z, mask, self.mask_token), causal=self.backbone.causal)
        return z[:, prefix:], outputs[:, prefix:]

    def _drawn_mask(self, targets: Tensor) -> Tensor:
        """A mask [B, N] of training."""
        return draw_mask(len(targets), targets.shape[1], self._ratio, targets.device)

    def _fixed_mask(self, targets: Tensor) -> Tensor:
        """The mask [B, N] of evaluations: a function of N and the ratio alone."""
        patches = targets.shape[1]
        order = torch.randperm(patches, generator=torch.Generator().manual_seed(0))
        return (order < round(self._ratio * patches)).to(targets.device).expand(len(targets), -1)
