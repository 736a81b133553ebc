"""Pre-training by next-embedding prediction. No label is read."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nepa_scale.config import RunConfig
from nepa_scale.data.datasets import PretrainImages
from nepa_scale.data.transforms import pretrain_eval, pretrain_train
from nepa_scale.distributed import World, sum_over_ranks
from nepa_scale.model import NepaViT
from nepa_scale.objective import Diagnostics, next_embedding_loss
from nepa_scale.tasks.task import Task, parameter_dtype


class PretrainModule(nn.Module):
    """Images [B, 3, H, W] -> the NEPA loss (paper Eq. 2-3)."""

    def __init__(self, backbone: NepaViT) -> None:
        super().__init__()
        self.backbone = backbone

    def embeddings(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Input embeddings and predictions, both [B, 1 + N, D]."""
        return self.backbone.next_embeddings(images.to(parameter_dtype(self.backbone)))

    def forward(self, images: Tensor) -> Tensor:
        """The loss, a scalar in fp32."""
        return next_embedding_loss(*self.embeddings(images))


class Pretrain(Task):
    """Next-embedding prediction on images alone."""

    name = "pretrain"

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        section = config.pretrain
        source = self.open_split("train")
        train = pretrain_train(section.image_size, crop_scale_min=section.crop_scale_min, hflip=section.hflip)
        self.train_data = PretrainImages(source, self.chosen_images(source), train, config.seed)
        validation = self.open_split("validation")
        self.eval_data = PretrainImages(validation, None, pretrain_eval(section.image_size), config.seed)
        self.backbone = self.new_backbone()
        self.module = PretrainModule(self.backbone)

    @torch.no_grad()
    def evaluate(self, world: World, device: torch.device) -> dict[str, float]:
        """Validation loss beside what trivial predictors reach, and effective ranks."""
        diagnostics = Diagnostics(self.backbone.embed_dim, device)
        self.module.eval()
        for images, counts in self.evaluation_batches(world, device):
            z, z_hat = self.module.embeddings(images)  # type: ignore[operator]
            if counts:
                diagnostics.update(z, z_hat)
        sum_over_ranks(diagnostics.state_tensors())
        self.module.train()
        return diagnostics.compute()
