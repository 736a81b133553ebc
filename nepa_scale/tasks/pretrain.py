"""Pre-training by next-embedding prediction, or by an objective to compare it with. No label is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nepa_scale.config import early_stop, learning_rate, objectives
from nepa_scale.config.objectives import objective_of
from nepa_scale.config.schema import RunConfig
from nepa_scale.data.datasets import PretrainImages
from nepa_scale.data.decode import BadImageError
from nepa_scale.data.loader import to_device
from nepa_scale.data.transforms import PretrainCrop, pretrain_eval
from nepa_scale.distributed.process_group import sum_over_ranks
from nepa_scale.distributed.world import World
from nepa_scale.models.build import scale_initial_weights
from nepa_scale.models.layers import standardised
from nepa_scale.optim.optimizer import build_optimizer
from nepa_scale.tasks.finetune import load_backbone
from nepa_scale.tasks.knn import OnlineKnn
from nepa_scale.tasks.objective_base import EvaluationSums, Objective, Spread, patch_energy
from nepa_scale.tasks.task import Task, Value
from nepa_scale.utils.errors import DataError
from nepa_scale.utils.progress import logger

MOST_IMAGES, MOST_PIXELS = 256, 2**22  # of which the energy of patches is measured


class Pretrain(Task):
    """Self-supervised training on images alone by the objective that is asked for, from scratch or from ``weights``."""

    name = "pretrain"

    def __init__(self, config: RunConfig, weights: Path | None = None) -> None:
        super().__init__(config)
        section = config.pretrain
        source = self.open_split("train")
        train = PretrainCrop(section.image_size, crop_scale_min=section.crop_scale_min, hflip=section.hflip)
        self.train_data = PretrainImages(source, self.chosen_images(source), train, config.seed)
        validation = self.open_split("validation")
        self.eval_data = PretrainImages(validation, None, pretrain_eval(section.image_size), config.seed)
        self.backbone = self.new_backbone()
        self._scaling = learning_rate.width_scaling(config)
        if self._scaling is not None:
            scale_initial_weights(self.backbone, self._scaling)
        if weights is not None:
            self.starts_finetuned = load_backbone(self.backbone, weights)
            logger.info("%s: going on from %s", self.name, weights)
            self.judged_at_start = True
            self.moments_from = weights.parent / "checkpoints" if section.init_optimizer == "carried" else None
        self.backbone.causal = section.attention == "causal"
        self._objective = objective_of(config)
        self.module: Objective = self._objective.objective_class(self.backbone, section)
        self._knn = OnlineKnn(self) if early_stop.asks_for_knn(section) else None

    def build_optimizer(self) -> torch.optim.Optimizer:
        """The optimiser with the rates that ``pretrain.lr_rule`` gives this size."""
        return build_optimizer(
            self.module, self.config.pretrain, peak_lr=learning_rate.peak_lr(self.config), scaling=self._scaling
        )

    def compile_rest(self) -> None:
        """Compile the loss."""
        self.module.compile_loss()

    def prepare(self, world: World, device: torch.device) -> None:
        """Say, on rank 0, how much of the patches is brightness and colour; not of shards that are streamed."""
        if not world.is_main or self.config.data.streaming:
            return
        images = self._some_images()
        if not images:
            return
        batch = to_device(torch.stack(images), torch.device("cpu"), self.standard)
        if self.standard.by_image:
            batch = standardised(batch)
        energy = patch_energy(batch, self.config.model.patch_size)
        self.details = {"patch_energy": energy}
        shares = "{mean_colour:.0%} is each patch's mean colour, {mean_patch:.0%} the mean of all patches"
        logger.info("%s: of the energy of patches %s", self.name, shares.format(**energy))
        warning = objectives.images_warning(energy, by_image=self.standard.by_image)
        if warning is not None and self._objective.predicts_embeddings:  # of pixels, patches are standardised
            logger.warning("%s: %s", self.name, warning)

    def _some_images(self) -> list[Tensor]:
        """Training images [3, S, S] from all over the set, in bytes; fewer where some are bad, which training tells."""
        images, available = [], len(self.train_data)
        count = min(MOST_IMAGES, max(1, MOST_PIXELS // self.section.image_size**2), available)
        with suppress(DataError):  # storage that fails
            for position in np.linspace(0, available - 1, count, dtype=int).tolist():
                with suppress(BadImageError):
                    images.append(self.train_data[0, position])
        return images

    def remark(self, metrics: Mapping[str, float]) -> str | None:
        """That the predictions are no better than trivial ones, if they are not; an ablation may be meant to."""
        section = self.config.pretrain
        if not (self._objective.predicts_embeddings and section.shift and section.distance == "cosine"):
            return None
        return objectives.training_warning(metrics, by_image=self.standard.by_image)

    def observe(self, *, due: bool) -> None:
        """Collect how far embeddings and predictions differ from one another."""
        self.module.spread = Spread(self.backbone.num_prefix_tokens) if due else None

    def observed(self) -> dict[str, float]:
        """``Spread.compute`` of the step just done."""
        return self.module.spread.compute() if self.module.spread is not None else {}

    def exported(self, weights: Mapping[str, Value]) -> dict[str, Value]:
        """The backbone alone: what an objective has of its own has no use after pre-training."""
        return super().exported({name: value for name, value in weights.items() if name.startswith("backbone.")})

    @torch.no_grad()
    def evaluate(self, world: World, device: torch.device) -> dict[str, float]:
        """Validation loss, beside what trivial predictors reach, and effective ranks.

        Where a milestone is about nearest neighbours, their vote, too: the one figure that reads labels.
        """
        sums: EvaluationSums = self.module.new_sums(device)
        self.module.eval()
        for images, counts in self.evaluation_batches(world, device):
            scored = self.module.scored(images)
            if counts:
                sums.update(*scored)
        sum_over_ranks(sums.state_tensors())
        votes = {} if self._knn is None else {early_stop.KNN: self._knn.top1(world, device)}
        self.module.train()
        return sums.compute() | votes

    def illustrate(self, folder: Path) -> None:
        """Draw maps of ``log.pictures`` validation images, on the CPU; none of pixels."""
        if self.config.log.pictures and self._objective.predicts_embeddings:
            from nepa_scale.visualise.strips import draw_pretraining  # matplotlib too, which only drawing needs

            draw_pretraining(self.config, folder)
