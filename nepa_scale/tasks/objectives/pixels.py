"""What the objectives that predict pixels share: the target, the head, and the metrics of an evaluation."""

from __future__ import annotations

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from nepa_scale.models.nepa_vit import NepaViT
from nepa_scale.models.objective import effective_rank, gram
from nepa_scale.models.patches import patch_pixels, standardised
from nepa_scale.tasks.objectives.objective import Objective

#: Added to the variance of a patch by which its pixels are divided (MAE's code), so that a flat patch becomes zeros.
VARIANCE_EPS = 1e-6


class PixelObjective(Objective):
    """An objective that predicts patches' pixels by one linear layer on the backbone's output."""

    def __init__(self, backbone: NepaViT) -> None:
        super().__init__(backbone)
        self._patch_size = backbone.patch_embed.proj.kernel_size[0]
        channels = backbone.patch_embed.proj.in_channels
        self.pixel_head = nn.Linear(backbone.embed_dim, channels * self._patch_size**2)
        trunc_normal_(self.pixel_head.weight, std=0.02)
        nn.init.zeros_(self.pixel_head.bias)

    def targets(self, images: Tensor) -> Tensor:
        """Normalised pixels [B, N, C p p] of images [B, C, H, W], as the model sees them, in fp32."""
        images = standardised(images.float()) if self.backbone.standardise else images.float()
        return normalised_patches(images, self._patch_size)

    def new_sums(self, device: torch.device) -> PixelSums:
        """Sums of ``PixelSums``."""
        return PixelSums(self.backbone.embed_dim, self.pixel_head.out_features, device)


def normalised_patches(images: Tensor, patch_size: int) -> Tensor:
    """Return the patches of images [B, C, H, W] as [B, N, C p p], each with zero mean and unit deviation.

    Mean and (unbiased) variance are those of all pixels and channels of the patch: MAE's better target
    (arXiv 2111.06377, section 3, "reconstruction target"), taken over by AIM (arXiv 2401.08541, section 3).
    """
    patches = patch_pixels(images, patch_size, patch_size).flatten(1, 2)
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (variance + VARIANCE_EPS).sqrt()


def squared_error(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return the squared error of each patch [B, N], the mean over its pixels [B, N, C p p], in fp32."""
    return (predictions.float() - targets).square().mean(-1)


class PixelSums:
    """Sums over evaluation batches from which ``compute`` derives the metrics of a prediction of pixels.

    All in float64. ``width``: of embeddings and outputs; ``pixels``: of a patch, C p p.
    """

    def __init__(self, width: int, pixels: int, device: torch.device | str = "cpu") -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        # Of the predictions, of the copies.
        self._counts, self._errors = zeros(2), zeros(2)
        self._target_sum, self._energy = zeros(pixels), zeros(1)
        self._embedding_gram, self._output_gram = zeros(width, width), zeros(width, width)

    @torch.no_grad()
    def update(
        self, z: Tensor, outputs: Tensor, predictions: Tensor, targets: Tensor, copies: Tensor | None = None
    ) -> None:
        """Add a batch.

        ``z`` and ``outputs`` [B, N, D]: embeddings and outputs of the patches. ``predictions`` and ``targets``
        [B, M, C p p]: of the patches that are predicted. ``copies`` [B, M - 1, C p p]: what stands, in raster order,
        before each target but the first; None where there is no such answer.
        """
        self._add(0, squared_error(predictions, targets))
        if copies is not None:
            self._add(1, squared_error(copies, targets[:, 1:]))
        self._target_sum += targets.double().sum((0, 1))
        self._energy += targets.double().square().mean(-1).sum()
        self._embedding_gram += gram(z)
        self._output_gram += gram(outputs)

    def _add(self, index: int, errors: Tensor) -> None:
        self._counts[index] += errors.numel()
        self._errors[index] += errors.double().sum()

    def state_tensors(self) -> list[Tensor]:
        """Return the sums themselves, to be all-reduced in place (SUM); their shapes never change."""
        sums = [self._counts, self._errors, self._target_sum, self._energy]
        return [*sums, self._embedding_gram, self._output_gram]

    def compute(self) -> dict[str, float]:
        """Return the metrics over all batches so far. Raises ``ValueError`` when there were none.

        * ``loss``: mean squared error of the predicted patches, in normalised pixels.
        * ``mean_baseline``: that of the best constant answer, the mean of all targets.
        * ``copy_baseline``: that of the answer "the patch before once more", where there is one.
        * ``skill`` = 1 - loss / b with b the better baseline. Of cosines, where the error is 1 - cosine, this is
          next-embedding prediction's skill; skills of different objectives are of different targets nevertheless.
        * ``effective_rank_embeddings``, ``effective_rank_outputs``: of embeddings and outputs over the patches.
        """
        if not self._counts[0]:
            raise ValueError("no batch has been evaluated yet")
        loss, copy = (self._errors / self._counts).tolist()  # of no copies: not a number
        mean = (self._energy / self._counts[0] - (self._target_sum / self._counts[0]).square().mean()).item()
        baselines = {"mean_baseline": mean} | ({"copy_baseline": copy} if self._counts[1] else {})
        best = min(baselines.values())
        return {
            "loss": loss,
            **baselines,
            "skill": 1 - loss / best if best > 0 else 0.0,
            "effective_rank_embeddings": effective_rank(self._embedding_gram),
            "effective_rank_outputs": effective_rank(self._output_gram),
        }
