"""Semantic segmentation: a UPerNet head on four block outputs of the backbone, and an auxiliary head on the third."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nepa_scale.config.ladder import quarter_blocks
from nepa_scale.config.schema import RunConfig
from nepa_scale.config.task_settings import SegmentConfig
from nepa_scale.data import layout
from nepa_scale.data.datasets import MaskedImages, Samples
from nepa_scale.data.decode import IGNORE
from nepa_scale.data.transforms import segment_eval, segment_train
from nepa_scale.distributed.process_group import max_over_ranks, sum_over_ranks
from nepa_scale.distributed.world import World
from nepa_scale.models.nepa_vit import NepaViT
from nepa_scale.tasks.finetune import Finetune
from nepa_scale.tasks.segmentation_metrics import MULTI_SCALE, PLAIN, SegmentationMetrics, iou_per_class
from nepa_scale.tasks.sliding_window import pad_to_patches, scores_of_image, slide
from nepa_scale.tasks.task import parameter_dtype
from nepa_scale.tasks.upernet import FCNHead, UPerNet
from nepa_scale.utils.errors import DataLostError

EVAL_PIXELS = 2**20
AUX_LEVEL = 2


class SegmentModule(nn.Module):
    """Images [B, 3, H, W] and masks [B, H, W] -> pixel-wise cross-entropy. Images are padded to whole patches."""

    def __init__(self, backbone: NepaViT, num_classes: int, section: SegmentConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self._patch_size = backbone.patch_embed.patch_size[0]
        self._levels = quarter_blocks(len(backbone.blocks))
        width = backbone.embed_dim
        self.head = UPerNet(width, section.channels, num_classes, self._patch_size, section.dropout)
        self._aux_weight = section.aux_weight
        if section.aux_weight:
            self.auxiliary = FCNHead(width, section.aux_channels, num_classes, section.dropout)

    def logits(self, images: Tensor) -> Tensor:
        """Class scores [B, C, H, W] at the images' size, in fp32 (fp64 of an fp64 model)."""
        return self._upsampled(self.head(self._features(images)), images)

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        """The training loss, a scalar: that of the head plus ``aux_weight`` times that of the auxiliary head."""
        features = self._features(images)
        loss = pixel_loss(self._upsampled(self.head(features), images), masks)
        if not self._aux_weight:
            return loss
        auxiliary = self.auxiliary(features[AUX_LEVEL])
        return loss + self._aux_weight * pixel_loss(self._upsampled(auxiliary, images), masks)

    def _features(self, images: Tensor) -> list[Tensor]:
        """The block outputs [B, D, h, w] that the heads read, of the padded images."""
        taken = sorted(set(self._levels))
        images = images.to(parameter_dtype(self.backbone))
        features = self.backbone.forward_intermediates(
            pad_to_patches(images, self._patch_size, own_mean=self.backbone.standardise),
            indices=taken,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        return [features[taken.index(level)] for level in self._levels]

    def _upsampled(self, scores: Tensor, images: Tensor) -> Tensor:
        precise = scores.to(torch.promote_types(scores.dtype, torch.float32))
        height, width = images.shape[-2:]
        return scores_of_image(precise, height, width, self._patch_size)


class Segment(Finetune):
    """Fine-tune on images with masks; mIoU over the whole validation split."""

    name = "segment"
    score = "miou"
    section: SegmentConfig
    stacked_evaluation = False  # photographs keep their shape
    any_image_size = True  # whole images, other scales, images smaller than the window

    def __init__(self, config: RunConfig, weights: Path | None) -> None:
        super().__init__(config, weights)
        section = self.section
        info = layout.dataset_info(Path(config.data.root), section.dataset)
        self._class_names = info.mask_class_names
        self._variants = MULTI_SCALE if section.multi_scale else (PLAIN,)
        source, validation = self.open_split("train"), self.open_split("validation")
        train = segment_train(
            section.image_size,
            scale_min=section.scale_min,
            scale_max=section.scale_max,
            hflip=section.hflip,
            cat_max_ratio=section.cat_max_ratio,
            photometric=section.photometric,
            standard=self.standard,
        )
        self.train_data = MaskedImages(source, self.chosen_images(source), train, config.seed)
        self._scales = list(dict.fromkeys(variant.scale for variant in self._variants))
        sides = [max(1, round(section.image_size * scale)) for scale in self._scales]
        still = segment_eval(*sides, standard=self.standard)
        self.eval_data = MaskedImages(validation, None, still, config.seed)
        kept = self.tuning_images(source)
        self.tuning_data = None if kept is None else MaskedImages(source, kept, still, config.seed)
        self.module = SegmentModule(self.backbone, len(self._class_names), section)

    @property
    def eval_batch_size(self) -> int:
        """Images read at a time: about a million pixels."""
        return max(1, min(64, EVAL_PIXELS // self.section.image_size**2))

    @torch.no_grad()
    def evaluate(self, world: World, device: torch.device, data: Samples[Any] | None = None) -> dict[str, float]:
        """mIoU, pixel and mean accuracy at the masks' own size, and the mIoU of the most frequent class everywhere.

        Pixels marked 255 are left out. Multi-scale metrics come beside them; ``details`` keeps the IoU of each class.

        Raises:
            DataLostError: on every rank, where no pixel is labelled.
        """
        metrics = SegmentationMetrics(len(self._class_names), self._variants, device)
        self.module.eval()
        for samples, counts in self.evaluation_batches(world, device, data):
            scores = self._scores([images for images, _ in samples], device)
            for _, mask in samples if counts else []:
                metrics.add(scores, mask)
            for _ in scores:  # also takes part in the passes that other ranks still make
                pass
        sum_over_ranks(metrics.state())
        if not metrics.plain.confmat.any():
            count, split = (len(self.eval_data), "validation") if data is None else (len(data), "tuning")
            where = f"the {count} {split} masks of '{self.section.dataset}'"
            raise DataLostError(f"no pixel of {where} is labelled: there is no mIoU")
        self.module.train()
        named = zip(self._class_names, iou_per_class(metrics.plain.confmat).tolist(), strict=True)
        self.details = {"iou_per_class": {name: None if math.isnan(iou) else iou for name, iou in named}}
        return metrics.compute()

    def _scores(self, batch: list[tuple[Tensor, ...]], device: torch.device) -> Iterator[Tensor]:
        """Scores [C, h, w] of every variant of every image, upright again, at the size it was scored at."""
        views = []
        for images in batch:
            at_scale = dict(zip(self._scales, images, strict=True))
            views += [at_scale[scale].flip(-1) if mirrored else at_scale[scale] for scale, mirrored in self._variants]
        window = self.section.image_size if self.section.eval_mode == "slide" else None
        agree = functools.partial(max_over_ranks, device=device)
        logits: Callable[[Tensor], Tensor] = self.module.logits  # type: ignore[assignment]
        scored = slide(logits, views, window, pixels=EVAL_PIXELS, agree=agree)
        for index, scores in enumerate(scored):
            yield scores.flip(-1) if self._variants[index % len(self._variants)].mirrored else scores


def pixel_loss(scores: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy of scores [B, C, H, W]: the labelled pixels' sum divided by all pixels, as mmsegmentation has it.

    Dividing by the labelled ones would let the result depend on how the batch is cut into micro-batches.
    """
    return F.cross_entropy(scores, masks, ignore_index=IGNORE, reduction="sum") / masks.numel()
