"""Fine-tuning for image classification: a linear head on the mean of the patch outputs or on the last token's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import Mixup
from torch import Tensor, nn

from nepa_scale.config.schema import RunConfig
from nepa_scale.config.task_settings import ClassifyConfig
from nepa_scale.data.datasets import LabelledImages, Samples
from nepa_scale.data.transforms import classify_eval, classify_train
from nepa_scale.distributed.process_group import sum_over_ranks
from nepa_scale.distributed.world import World
from nepa_scale.models.nepa_vit import LAYER_NORM_EPS, NepaViT
from nepa_scale.tasks.finetune import Finetune
from nepa_scale.tasks.task import parameter_dtype


class ClassifyModule(nn.Module):
    """Images [B, 3, H, W] and labels [B] -> cross-entropy with smoothing and, where asked for, mixup and cutmix.

    ``pool=mean``: the head reads the mean of the patch outputs after another LayerNorm, ``fc_norm`` (released
    classifiers). ``pool=last``: it reads the last token's output as it is (paper).
    """

    def __init__(self, backbone: NepaViT, num_classes: int, section: ClassifyConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self._pool = section.pool
        self.fc_norm = nn.LayerNorm(backbone.embed_dim, eps=LAYER_NORM_EPS) if section.pool == "mean" else nn.Identity()
        self.head = nn.Linear(backbone.embed_dim, num_classes)
        nn.init.zeros_(self.head.weight)  # authors' code: the classifier starts at zero
        nn.init.zeros_(self.head.bias)
        self._smoothing = section.label_smoothing
        self._mixup: Mixup | None = None
        if section.mixup or section.cutmix:
            self._mixup = Mixup(
                mixup_alpha=section.mixup,
                cutmix_alpha=section.cutmix,
                prob=1.0,
                switch_prob=0.5,
                mode="batch",
                label_smoothing=section.label_smoothing,
                num_classes=num_classes,
            )

    def logits(self, images: Tensor) -> Tensor:
        """Class scores [B, C] in fp32."""
        tokens = self.backbone.forward_features(images.to(parameter_dtype(self.backbone)))
        pooled = tokens[:, -1] if self._pool == "last" else tokens[:, self.backbone.num_prefix_tokens :].mean(dim=1)
        scores: Tensor = self.head(self.fc_norm(pooled))
        return scores.float()

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """The training loss, a scalar."""
        if self._mixup is not None:
            images, targets = self._mixup(images, labels)
            return F.cross_entropy(self.logits(images), targets)
        return F.cross_entropy(self.logits(images), labels, label_smoothing=self._smoothing)


class Classify(Finetune):
    """Fine-tune on labelled images; top-1 and top-5 over the whole validation split."""

    name = "classify"
    score = "top1"
    section: ClassifyConfig

    def __init__(self, config: RunConfig, weights: Path | None) -> None:
        super().__init__(config, weights)
        section = self.section
        self._classes = self.num_classes()
        source, validation = self.open_split("train"), self.open_split("validation")
        train = classify_train(
            section.image_size,
            crop_scale_min=section.crop_scale_min,
            hflip=section.hflip,
            auto_augment=section.auto_augment,
            re_prob=section.random_erasing,
            standard=self.standard,
        )
        self.train_data = LabelledImages(source, self.chosen_images(source), train, config.seed)
        still = classify_eval(
            section.image_size, crop_pct=section.crop_pct, crop_mode=section.crop_mode, standard=self.standard
        )
        self.eval_data = LabelledImages(validation, None, still, config.seed)
        kept = self.tuning_images(source)
        self.tuning_data = None if kept is None else LabelledImages(source, kept, still, config.seed)
        self.module = ClassifyModule(self.backbone, self._classes, section)

    @property
    def head_lr(self) -> float | None:
        """As set: the authors give the classifier a rate that does not follow the batch."""
        return self.section.head_lr

    @torch.no_grad()
    def evaluate(self, world: World, device: torch.device, data: Samples[Any] | None = None) -> dict[str, float]:
        """Fractions of right answers, mean loss, and what answering the most frequent class would reach."""
        sums = torch.zeros(3, dtype=torch.float64, device=device)  # loss, top-1, top-5
        label_counts = torch.zeros(self._classes, dtype=torch.float64, device=device)
        self.module.eval()
        for (images, labels), counts in self.evaluation_batches(world, device, data):
            logits = self.module.logits(images)  # type: ignore[operator]
            if not counts:
                continue
            ranked = logits.topk(min(5, self._classes), dim=1).indices == labels[:, None]
            sums += torch.stack(
                [F.cross_entropy(logits, labels, reduction="sum"), ranked[:, 0].sum(), ranked.sum()]
            ).to(sums)
            label_counts += torch.bincount(labels, minlength=self._classes)
        sum_over_ranks([sums, label_counts])
        self.module.train()
        loss, top1, top5 = (sums / label_counts.sum()).tolist()
        majority = (label_counts.max() / label_counts.sum()).item()
        return {"loss": loss, "top1": top1, "top5": top5, "top1_majority": majority}
