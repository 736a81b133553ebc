"""AIM-style pre-training: predict the pixels of the next patch."""

from __future__ import annotations

from torch import Tensor

from nepa_scale.config.task_settings import PretrainConfig
from nepa_scale.models.nepa_vit import NepaViT
from nepa_scale.tasks.objectives.pixels import PixelObjective, squared_error
from nepa_scale.tasks.task import parameter_dtype


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
