"""What nearest neighbours make of a backbone in the middle of its pre-training; nothing is trained."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from nepa_scale.config.early_stop import KNN
from nepa_scale.data.datasets import LabelledImages
from nepa_scale.data.sampler import subset
from nepa_scale.data.sources import Source
from nepa_scale.data.transforms import classify_eval
from nepa_scale.distributed.world import World
from nepa_scale.tasks.probing.vote import top1_of_votes
from nepa_scale.tasks.task import Task, parameter_dtype

NEIGHBOURS = 20  # as ``probe.knn_neighbours``
MOST_IMAGES = 10_000


class OnlineVote:
    """The vote of up to 10,000 of the images trained on, balanced over classes, about the validation images.

    As ``task=probe`` has it, but with the attention that is trained, and the mean of the patch outputs alone.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        section, seed = task.section, task.config.seed
        validation, source = (cast(Source, data.source) for data in (task.eval_data, task.train_data))
        used = task.train_data.indices
        few = used[subset(len(used), min(MOST_IMAGES, len(used)), seed, source.labels[used])]
        still = classify_eval(section.image_size, crop_pct=1.0, standard=task.standard)
        self._queries = LabelledImages(validation, None, still, seed)
        self._references = LabelledImages(source, few, still, seed)
        self._classes = task.num_classes()

    @torch.no_grad()
    def top1(self, world: World, device: torch.device) -> float:
        """The fraction of validation images voted right; every rank calls this, with the module in evaluation."""
        task = self._task
        found = top1_of_votes(
            self._pooled,
            task.evaluation_batches(world, device, self._queries),
            task.evaluation_batches(world, device, self._references),
            num_queries=len(self._queries),
            neighbours=min(NEIGHBOURS, len(self._references)),
            num_classes=self._classes,
            world=world,
        )
        return found[KNN]

    def _pooled(self, images: Tensor) -> dict[str, Tensor]:
        backbone = self._task.backbone
        tokens = backbone.forward_features(images.to(parameter_dtype(backbone)))
        return {KNN: tokens[:, backbone.num_prefix_tokens :].mean(dim=1)}
