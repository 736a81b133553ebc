"""What the trainer asks of a task, and what tasks share: subsets of the data, the backbone, evaluation on all ranks."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import nn

from nepa_scale.config.data_facts import exhausted_classes, label_list, num_classes, num_used_images, tuning_images
from nepa_scale.config.ladder import QkNorm
from nepa_scale.config.schema import RunConfig
from nepa_scale.config.task_settings import TaskConfig
from nepa_scale.data import label_list as label_lists
from nepa_scale.data import layout
from nepa_scale.data.datasets import Samples
from nepa_scale.data.loader import eval_loader, prefetched
from nepa_scale.data.sampler import kept_out, subset
from nepa_scale.data.shard_stream import StreamSource, open_stream
from nepa_scale.data.sources import Contents, Source, open_source
from nepa_scale.data.streaming import eval_passes, eval_stream
from nepa_scale.distributed.process_group import first_text, sum_votes
from nepa_scale.distributed.world import World
from nepa_scale.models.build import build_backbone
from nepa_scale.models.nepa_vit import NepaViT
from nepa_scale.optim.optimizer import NO_LAYER_DECAY, LayerDecay, build_optimizer
from nepa_scale.utils.errors import DataError, DataLostError
from nepa_scale.utils.progress import logger

Value = TypeVar("Value")


class StoppedError(Exception):
    """A rank was asked to stop while all evaluate."""


def _never() -> bool:
    return False


class Task(ABC):
    """A module to train (its forward returns the loss), the data it trains on, and how it is evaluated."""

    name: str
    backbone: NepaViT
    module: nn.Module
    train_data: Samples[Any]
    eval_data: Samples[Any]
    stacked_evaluation = True
    starts_finetuned = False  # from weights that have seen labels
    judged_at_start = False  # whether the weights that it starts from are evaluated before the first step
    moments_from: Path | None = None  # checkpoints of another run, whose moments of the optimiser it begins with
    any_image_size = False  # whether the backbone must take images of other sizes too

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.section: TaskConfig = config.task_config(self.name)
        self.standard = layout.standardisation(
            Path(config.data.root), self.section.dataset, config.data.mean, config.data.std
        )
        self.interrupted: Callable[[], bool] = _never  # asked before each batch of an evaluation
        self.details: dict[str, Any] = {}  # what the last evaluation found beside its metrics

    @property
    def eval_batch_size(self) -> int:
        """Images per evaluation pass and device."""
        return 64

    @property
    def layer_decay(self) -> LayerDecay:
        """Layer-wise learning-rate decay; pre-trained starts override it."""
        return NO_LAYER_DECAY

    def prepare(self, world: World, device: torch.device) -> None:  # noqa: B027  most tasks need nothing
        """Measure what must be known before training; every rank calls this, with the module on its device."""

    def compile_rest(self) -> None:  # noqa: B027  most tasks spend their time in the blocks
        """Compile what is worth it outside the backbone; called where the backbone's blocks are compiled."""

    def build_optimizer(self) -> torch.optim.Optimizer:
        """The optimiser over what the task trains."""
        return build_optimizer(self.module, self.section)

    def exported(self, weights: Mapping[str, Value]) -> dict[str, Value]:
        """Of what belongs to the module's tensors, that of those which a finished task leaves in its file, by the
        file's keys: the backbone's by its own."""
        return {name.removeprefix("backbone."): value for name, value in weights.items()}

    def remark(self, metrics: Mapping[str, float]) -> str | None:
        """The line that people should read beside the metrics of the finished task, if there is one."""
        return None

    def illustrate(self, folder: Path) -> None:  # noqa: B027  most tasks have no pictures
        """Draw pictures of the finished task from the weights in its folder, into it; rank 0 alone calls this."""

    @abstractmethod
    def evaluate(self, world: World, device: torch.device) -> dict[str, float]:
        """Metrics over the whole validation split; every rank calls this and gets the same answer."""

    def observe(self, *, due: bool) -> None:  # noqa: B027  most tasks need nothing
        """Collect metrics of the coming training step, if it is ``due`` to be logged."""

    def observed(self) -> dict[str, float]:
        """The metrics of the step just done over all ranks, which all call this."""
        return {}

    def open_split(self, split: str) -> Contents:
        """The task's ``train`` or ``validation`` images."""
        data = self.config.data
        if data.streaming:
            return open_stream(Path(data.root), self.section.dataset, split, allow_remote=data.allow_remote)
        return open_source(Path(self.config.data.root), self.section.dataset, split)

    def chosen_images(self, source: Contents) -> np.ndarray | None:
        """Indices of the training images used; None means all.

        The choice takes a round of every class after the other, so that K of each class are as many whole rounds.
        """
        if (listed := label_list(self.section)) is not None:
            return label_lists.indices(listed, cast(Source, source))
        count, kept = num_used_images(self.config, self.name), self.tuning_images(source)
        if (remark := exhausted_classes(self.config, self.name)) is not None:
            logger.info("%s", remark)
        if kept is None and count == len(source):
            return None
        rest = np.delete(np.arange(len(source)), [] if kept is None else kept)
        # Labels of a set that states no classes mean nothing.
        labels = cast(Source, source).labels[rest] if source.num_classes else None
        return rest[subset(len(rest), count, self.config.seed, labels)]

    def tuning_images(self, source: Contents) -> np.ndarray | None:
        """Indices of the training images that are scored and never trained on, the same in every run; None: none."""
        count = tuning_images(self.section)
        return kept_out(cast(Source, source).labels, count) if count else None

    def tuning_metrics(self, world: World, device: torch.device) -> dict[str, float]:
        """The score of the finished task on its tuning images; every rank calls this and gets the same answer."""
        return {}

    def new_backbone(self, *, drop_path_rate: float = 0.0, qk_norm: str | None = None) -> NepaViT:
        """The backbone of this configuration with fresh weights; ``qk_norm`` (if given) in place of the model's."""
        model = self.config.model
        arch = model.architecture()
        backbone = build_backbone(
            arch if qk_norm is None else dataclasses.replace(arch, qk_norm=cast(QkNorm, qk_norm)),
            self.config.backbone_image_size(self.name),
            layer_scale_init=model.layer_scale_init,
            xavier_init=model.weight_init == "xavier",
            rope_rescale=model.rope_rescale if model.rope_rescale > 1 else None,
            drop_path_rate=drop_path_rate,
            dynamic_img_size=self.any_image_size,
            standardise=self.standard.by_image,
        )
        backbone.set_grad_checkpointing(bool(self.config.engine.activation_checkpointing))
        return backbone

    def num_classes(self) -> int:
        """Classes of the task's labels or masks."""
        return num_classes(self.config, self.name)

    def evaluation_batches(
        self, world: World, device: torch.device, data: Samples[Any] | None = None
    ) -> Iterator[tuple[Any, bool]]:
        """Yield (batch on ``device``, whether it counts), equally often on every rank.

        The batches are of the validation images, which are all read or end in an error, or of training images
        ``data``, where the next one stands in for a bad one as in training. Rank r of n has every n-th from r on, of
        the shards where they are streamed. A batch is the collated sample, or a list of samples where images keep
        their own shapes. Under ZeRO-3 a forward pass is a collective, so a rank that has run out repeats its last
        batch uncounted.

        Raises:
            DataLostError: on every rank, when one could not read a batch of its own.
            StoppedError: on every rank, when one was ``interrupted``.
        """
        if self.config.data.streaming:
            batches, counts, missing = self._streamed_evaluation(world)
        else:
            batches, counts, missing = self._indexed_evaluation(world, data)
        stream, batch, error = prefetched(batches, device, self.standard), None, None
        for _ in range(missing):
            try:
                loaded = next(stream, None)
            except DataError as failure:
                loaded, error = None, str(failure)
            self._agree_to_go_on(error)
            batch = batch if loaded is None else loaded
            yield batch, counts and loaded is not None

    def _agree_to_go_on(self, error: str | None) -> None:
        """Leave the evaluation with all other ranks where any has an error or was asked to stop."""
        stops, errors = sum_votes([self.interrupted(), error is not None])
        if errors:
            problem = first_text(error)
            raise DataLostError(f"{problem} (in evaluation, where nothing is replaced; training is saved)")
        if stops:
            raise StoppedError

    def _indexed_evaluation(self, world: World, data: Samples[Any] | None) -> tuple[Iterable[Any], bool, int]:
        """This rank's batches, whether they count, and how many any rank has at most."""
        training = data is not None
        data = self.eval_data if data is None else data
        count = len(data)
        counts = world.rank < count  # with fewer samples than ranks the last ranks repeat the first sample
        batches = eval_loader(
            data,
            batch_size=self.eval_batch_size,
            rank=world.rank if counts else 0,
            world_size=world.size,
            num_workers=self.config.data.num_workers,
            stack=self.stacked_evaluation,
            tolerant=training,
        )
        return batches, counts, math.ceil(math.ceil(count / world.size) / self.eval_batch_size)

    def _streamed_evaluation(self, world: World) -> tuple[Iterable[Any], bool, int]:
        """The same of shards that are read in order; a rank without any borrows another's first batch."""
        sharing: dict[str, int] = {
            "batch_size": self.eval_batch_size,
            "world_size": world.size,
            "num_workers": self.config.data.num_workers,
        }
        lengths = cast(StreamSource, self.eval_data.source).lengths
        passes = [eval_passes(lengths, rank=rank, **sharing) for rank in range(world.size)]
        counts = passes[world.rank] > 0
        rank = world.rank if counts else passes.index(max(passes))
        batches = eval_stream(self.eval_data, rank=rank, stack=self.stacked_evaluation, **sharing)
        return batches if counts else islice(batches, 1), counts, max(passes)


def parameter_dtype(module: nn.Module) -> torch.dtype:
    """The number format of a module's weights, to which its input images are cast."""
    return next(module.parameters()).dtype
