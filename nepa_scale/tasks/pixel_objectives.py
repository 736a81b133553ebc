"""Objectives that predict pixels, of the next patch (AIM) or of masked ones (MAE): one target, head and evaluation."""

from __future__ import annotations

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from nepa_scale.config.task_settings import PretrainConfig
from nepa_scale.models.layers import patch_pixels, standardised
from nepa_scale.models.nepa_vit import NepaViT
from nepa_scale.models.objective import effective_rank, gram
from nepa_scale.tasks.objective_base import Objective, draw_mask, masked_inputs
from nepa_scale.tasks.task import parameter_dtype

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


class NextPixels(PixelObjective):
    """Images [B, 3, H, W] -> mean squared error of the normalised pixels of the next patch (AIM, arXiv 2401.08541).

    As in AIM: raster order, the target, the loss. Otherwise than in AIM, attention is causal from the first patch on
    (AIM's is bidirectional in a random prefix, which it finds to matter where fine-tuning is bidirectional), and the
    head is one linear layer in the place of twelve residual MLP blocks: it differs from NEPA by its target alone.
    """

    def __init__(self, backbone: NepaViT, section: PretrainConfig) -> None:
        super().__init__(backbone)

    def forward(self, images: Tensor) -> Tensor:
        """The loss, a scalar in fp32; the last token predicts nothing and stays out of the blocks."""
        _, _, predictions, targets = self.predicted(images)
        return squared_error(predictions, targets).mean()

    def scored(self, images: Tensor) -> tuple[Tensor, ...]:
        """Embeddings and outputs [B, N - 1, D]; predictions, targets, and what stands before all but the first."""
        z, outputs, predictions, targets = self.predicted(images)
        return z, outputs, predictions, targets, targets[:, :-1]

    def predicted(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Embeddings and outputs of the patches but the last, predictions and targets [B, T - 1, C p p]."""
        prefix = self.backbone.num_prefix_tokens
        z = self.backbone.embed(images.to(parameter_dtype(self.backbone)))[:, :-1]
        outputs = self.backbone.encode(z, causal=True)
        targets = self.targets(images)[:, 1 - prefix :]  # the first patch follows the class token, if there is one
        return z[:, prefix:], outputs[:, prefix:], self.pixel_head(outputs), targets


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
