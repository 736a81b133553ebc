"""Semantic segmentation: a UPerNet head on four block outputs of the backbone."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassJaccardIndex

from nepa_scale.config import RunConfig, SegmentConfig
from nepa_scale.costs import NUM_LEVELS
from nepa_scale.data.datasets import MaskedImages
from nepa_scale.data.transforms import IGNORE, segment_eval, segment_train
from nepa_scale.distributed import World, sum_over_ranks
from nepa_scale.model import NepaViT
from nepa_scale.sliding import slide
from nepa_scale.tasks.finetune import Finetune
from nepa_scale.tasks.task import parameter_dtype
from nepa_scale.upernet import UPerNet

EVAL_PIXELS = 2**20


class SegmentModule(nn.Module):
    """Images [B, 3, H, W] and masks [B, H, W] -> pixel-wise cross-entropy."""

    def __init__(self, backbone: NepaViT, num_classes: int, channels: int) -> None:
        super().__init__()
        self.backbone = backbone
        patch_size = backbone.patch_embed.patch_size[0]
        self.head = UPerNet(backbone.embed_dim, channels, num_classes, patch_size)
        self._levels = feature_levels(len(backbone.blocks))

    def logits(self, images: Tensor) -> Tensor:
        """Class scores [B, C, H, W] in fp32 at the images' size."""
        taken = sorted(set(self._levels))
        features = self.backbone.forward_intermediates(
            images.to(parameter_dtype(self.backbone)),
            indices=taken,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        scores = self.head([features[taken.index(level)] for level in self._levels])
        return F.interpolate(scores.float(), size=images.shape[-2:], mode="bilinear", align_corners=False)

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        """The training loss, a scalar: the sum over labelled pixels divided by all pixels, as mmsegmentation has it.

        Dividing by the labelled ones would let the result depend on how the batch is cut into micro-batches.
        """
        total = F.cross_entropy(self.logits(images), masks, ignore_index=IGNORE, reduction="sum")
        return total / masks.numel()


class Segment(Finetune):
    """Fine-tune on images with masks; mIoU over the whole validation split."""

    name = "segment"
    section: SegmentConfig
    stacked_evaluation = False  # photographs keep their shape

    def __init__(self, config: RunConfig, weights: Path | None) -> None:
        super().__init__(config, weights)
        section = self.section
        self._classes = self.num_classes()
        source, validation = self.open_split("train"), self.open_split("validation")
        train = segment_train(
            section.image_size, scale_min=section.scale_min, scale_max=section.scale_max, hflip=section.hflip
        )
        self.train_data = MaskedImages(source, self.chosen_images(source), train, config.seed)
        self.eval_data = MaskedImages(validation, None, segment_eval(section.image_size), config.seed)
        self.module = SegmentModule(self.backbone, self._classes, section.channels)

    @property
    def eval_batch_size(self) -> int:
        """Images per evaluation pass: about a million pixels."""
        return max(1, min(64, EVAL_PIXELS // self.section.image_size**2))

    @torch.no_grad()
    def evaluate(self, world: World, device: torch.device) -> dict[str, float]:
        """mIoU and pixel accuracy at the masks' own size, and the mIoU of the most frequent class everywhere.

        Classes in neither a mask nor a prediction do not count; pixels marked 255 are left out.
        """
        metric = MulticlassJaccardIndex(self._classes, ignore_index=IGNORE, sync_on_compute=False).to(device)
        sums = torch.zeros(2, dtype=torch.float64, device=device)  # loss, labelled pixels
        self.module.eval()
        for samples, counts in self.evaluation_batches(world, device):
            images = [image for image, _ in samples]
            whole = slide(self.module.logits, images, self.section.image_size)  # type: ignore[arg-type]
            for scores, (_, mask) in zip(whole, samples if counts else [], strict=False):
                full = F.interpolate(scores[None], size=mask.shape, mode="bilinear", align_corners=False)
                metric.update(full.argmax(dim=1), mask[None])
                sums[0] += F.cross_entropy(full, mask[None], ignore_index=IGNORE, reduction="sum")
                sums[1] += (mask != IGNORE).sum()
        sum_over_ranks([metric.confmat, sums])
        self.module.train()
        return {
            "miou": metric.compute().item(),
            "pixel_accuracy": (metric.confmat.diagonal().sum() / metric.confmat.sum()).item(),
            "loss": (sums[0] / sums[1]).item(),
            "miou_majority": majority_miou(metric.confmat.sum(dim=1)),
        }


def feature_levels(depth: int) -> list[int]:
    """Indices of the four blocks whose outputs the head reads, evenly spaced and ending at the last."""
    return [max(0, -(-depth * (level + 1) // NUM_LEVELS) - 1) for level in range(NUM_LEVELS)]


def majority_miou(pixels_per_class: Tensor) -> float:
    """mIoU of the most frequent class everywhere: its share of the pixels, averaged over the classes present."""
    share = pixels_per_class.max() / pixels_per_class.sum()
    return float(share / (pixels_per_class > 0).sum())
