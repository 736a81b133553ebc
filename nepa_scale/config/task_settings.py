"""The settings of each task: its data, length, optimiser and schedule, and what it has of its own. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from nepa_scale.config import objectives, sizes
from nepa_scale.data.info import EMBEDDED_NAME

LIMITS = ("choices", "low", "high", "above")
"""Keys of a field's metadata that limit its value."""


def setting(
    default: Any,
    *,
    choices: Collection[str] | None = None,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    orchestration: bool = False,
    later: bool = False,
) -> Any:
    """A dataclass field with its range: ``low <= value <= high``, ``value > above``, or one of ``choices``.

    ``high`` of a number is ``utils.cli.LARGEST`` unless given. ``later``: earlier versions did not have it and did what
    its default does, so that it changes no ``run_id`` until it is given.
    """
    limits = dict(zip(LIMITS, (choices, low, high, above), strict=True))
    metadata = {name: limit for name, limit in limits.items() if limit is not None}
    return field(default=default, metadata={**metadata, "orchestration": orchestration, "later": later})


@dataclass(kw_only=True)
class TaskConfig:
    """What every task has: data, length, optimiser and schedule."""

    dataset: str = setting(EMBEDDED_NAME)
    """folder name of the data set under data.root"""
    image_size: int = setting(32, low=1, high=2**14)
    """side of the square input, in pixels"""
    num_images: int | None = setting(None, low=1, high=10**12)
    """training images used (a nested, seeded subset, balanced over classes); null = all"""
    fraction: float | None = setting(None, above=0, high=1)
    """training images used, as a part of all (give this or num_images); null = all"""
    epochs: float | None = setting(None, above=0, high=10**6)
    """length in passes over the training images (give this or steps)"""
    steps: int | None = setting(None, low=1)
    """length in optimiser steps (give this or epochs)"""
    batch_size: int = setting(64, low=1, high=2**20)
    """images per optimiser step, over all devices"""
    base_lr: float = setting(1e-3, above=0)
    """peak learning rate = base_lr x batch_size / 256"""
    warmup: float = setting(0.1, low=0, high=1)
    """fraction of the steps spent in linear warm-up, rounded up to whole steps"""
    schedule: str = setting("cosine", choices=("cosine", "poly", "wsd"))
    """how the rate falls to zero after the warm-up: half a cosine, poly (a straight line), or wsd (only at the end)"""
    decay: float = setting(0.2, above=0, high=1)
    """schedule=wsd: fraction of the steps, at the end, in which the rate falls; before them it stays at its peak"""
    optimizer: str = setting("adamw", choices=("adamw", "muon"), later=True)
    """adamw, or muon: the blocks' matrices by their orthogonalised momentum, the rest by AdamW, at the same rate"""
    momentum: float = setting(0.95, low=0, high=0.9999, later=True)
    """optimizer=muon: decay of the momentum of the blocks' matrices"""
    weight_decay: float = setting(0.05, low=0)
    """decoupled weight decay (not on biases, norms and LayerScale)"""
    beta1: float = setting(0.9, low=0, high=0.9999)
    """AdamW first-moment decay"""
    beta2: float = setting(0.95, low=0, high=0.99999)
    """AdamW second-moment decay"""
    clip_grad_norm: float = setting(1.0, low=0)
    """global gradient-norm clip; 0 = off"""
    ema_decay: float = setting(0.0, low=0, high=0.999999)
    """decay per step of a moving average of the weights, evaluated and saved beside them; 0 = none"""
    hflip: float = setting(0.5, low=0, high=1)
    """probability of a horizontal flip in training"""
    eval_every: int = setting(0, low=0, orchestration=True)
    """evaluate every so many steps; 0 = only at the end"""
    milestones: str | None = setting(None, orchestration=True)
    """measures to be reached by stated steps, or the task ends as failed, e.g. '{2000: {skill: 0.1}}'; null = none"""

    @property
    def peak_lr(self) -> float:
        """Learning rate at the end of warm-up (linear batch rule; paper §4.1)."""
        return self.base_lr * self.batch_size / 256

    @property
    def idle_tokens(self) -> int:
        """Tokens that training leaves out of the blocks."""
        return 0

    @property
    def can_compile(self) -> bool:
        """Whether the blocks can be compiled, wherever ``engine.compile`` asks for it."""
        return True

    @property
    def mixes_pairs(self) -> bool:
        """Whether the images of a forward pass are mixed in pairs, so that they must be even in number."""
        return False

    @property
    def own_qk_norm(self) -> str | None:
        """QK-norm where it is not the model's."""
        return None

    def used_images(self, available: int) -> int:
        """Training images used by num_images or fraction, of those there are."""
        if self.fraction is not None:
            return max(1, round(self.fraction * available))
        return min(self.num_images or available, available)

    def total_steps(self, num_images: int) -> int:
        """Optimiser steps of the whole task when ``num_images`` training images are used."""
        if self.steps is not None:
            return self.steps
        return max(1, math.ceil((self.epochs or 0) * num_images / self.batch_size))


@dataclass(kw_only=True)
class PretrainConfig(TaskConfig):
    """Next-embedding prediction, or an objective to compare it with."""

    objective: str = setting("next_embedding", choices=objectives.OBJECTIVES, later=True)
    """what is predicted: next_embedding (NEPA), masked_pixels (in the manner of MAE) or next_pixels (of AIM)"""
    epochs: float | None = setting(4.0, above=0, high=10**6)
    """length in passes over the training images (give this or steps)"""
    lr_rule: str = setting("fixed", choices=("fixed", "power", "mup"))
    """the rate of other sizes: base_lr as well, a power of the parameters, or by width for each kind of tensor (muP)"""
    lr_reference: str | None = setting(None, choices=sizes.LADDER)
    """lr_rule=power, mup: rung of the size ladder whose learning rate is base_lr"""
    lr_exponent: float | None = setting(None, low=-2, high=1)
    """lr_rule=power: peak learning rate x (parameters / the reference's) to this power"""
    init: str = setting("scratch", later=True)
    """where pre-training starts: scratch, or a folder with model.safetensors or a run (task=pretrain init=DIR)"""
    init_optimizer: str = setting("fresh", choices=("fresh", "carried"), later=True)
    """AdamW's moments at the start: fresh, or carried over from the newest checkpoint of the run in pretrain.init"""
    init_ema: bool = setting(False, later=True)
    """start from the moving average of the weights in pretrain.init"""
    crop_scale_min: float = setting(0.5, above=0, high=1)
    """smallest area fraction of RandomResizedCrop (paper: 0.08)"""
    hflip: float = setting(0.0, low=0, high=1)
    """probability of a horizontal flip in training (authors' code: 0.5; digits must not be mirrored)"""
    attention: str = setting("causal", choices=("causal", "bidirectional"))
    """attention mask (bidirectional: ablation, paper Table 1a)"""
    shift: bool = setting(True)
    """predict the next embedding; false = the token's own (ablation, paper Table 1a)"""
    stop_gradient: bool = setting(True)
    """no gradient through the target (false: ablation, paper Table 1a)"""
    mask_ratio: float = setting(0.0, low=0, high=0.95)
    """fraction of input patches replaced by a learned token; targets stay clean (ablation, Table 1c; masked_pixels)"""
    distance: str = setting("cosine", choices=("cosine", "mse", "infonce"), later=True)
    """distance between prediction and target; infonce also uses the image's other targets, as negatives (NEPA-DiT)"""
    temperature: float = setting(0.1, above=0, high=100, later=True)
    """distance=infonce: the temperature by which cosines are divided"""
    horizon: int = setting(1, low=1, high=10**4, later=True)
    """how many of the next embeddings each position predicts at once (NEPA-DiT)"""
    sigreg: float = setting(0.0, low=0, high=10**6, later=True)
    """weight of SIGReg, which prevents collapse when stop_gradient=false (LeNEPA); 0 = off"""
    stop_on_collapse: bool | None = setting(None, orchestration=True)
    """end when the embeddings of all patches are the same; false = warn; null = end, or warn
    where neither stop_gradient nor sigreg keeps them apart"""

    @property
    def idle_tokens(self) -> int:
        """The last one in causal next-patch prediction, which predicts nothing and which no other looks at."""
        return int(self.shift and self.attention == "causal")

    @property
    def predicts_embeddings(self) -> bool:
        """Whether the target is learned."""
        return objectives.SPECS[self.objective].predicts_embeddings


@dataclass(kw_only=True)
class FinetuneConfig(TaskConfig):
    """What the two supervised tasks share."""

    epochs: float | None = setting(8.0, above=0, high=10**6)
    """length in passes over the training images (give this or steps)"""
    beta2: float = setting(0.999, low=0, high=0.99999)
    """AdamW second-moment decay"""
    hflip: float = setting(0.0, low=0, high=1)
    """probability of a horizontal flip in training (digits must not be mirrored)"""
    attention: str = setting("bidirectional", choices=("bidirectional", "causal"))
    """attention mask while fine-tuning (paper: bidirectional for the headline numbers)"""
    drop_path_rate: float = setting(0.0, low=0, high=0.9)
    """stochastic depth, rising linearly over the blocks to this rate"""
    layer_decay: float = setting(0.8, above=0, high=1)
    """learning rate of each block = the next block's times this (from a pre-trained start only)"""
    layer_decay_end: float | None = setting(None, above=0, high=1)
    """layer_decay moves to this value over training; null = constant (paper: 1.0)"""
    layer_decay_ramp: str = setting("linear", choices=("linear", "cosine"))
    """how layer_decay moves: linear (paper) or cosine (authors' code)"""
    layer_warmup: bool = setting(False)
    """warm up a layer the longer, the more its rate is decayed; the last ones in one step (authors' scripts)"""
    freeze_patch_embed: bool = setting(False)
    """keep the patch convolution as pre-trained (from a pre-trained start only)"""
    qk_norm: str | None = setting(None, choices=("none", "plain", "weight"))
    """QK-norm while fine-tuning; null = model.qk_norm (the released checkpoints go from plain to weight)"""
    init_ema: bool = setting(False)
    """start from the moving average of the pre-trained weights"""
    init_blocks: int | None = setting(None, low=0, high=1000, later=True)
    """blocks that start pre-trained, from the lowest; fresh are the others and the final norm; null = all and it"""
    init_fraction: float | None = setting(None, above=0, high=1, later=True)
    """in place of init_blocks: the fraction of the blocks, rounded down, one at least"""
    tuning_images: int = setting(0, low=0, high=10**9, later=True)
    """training images, the same in every run, that are not trained on: the finished task is scored on them, too"""

    @property
    def can_compile(self) -> bool:
        """Not with stochastic depth, whose draws would change."""
        return self.drop_path_rate == 0

    @property
    def own_qk_norm(self) -> str | None:
        """QK-norm while fine-tuning, where it changes."""
        return self.qk_norm

    def initial_blocks(self, depth: int) -> int | None:
        """How many of ``depth`` blocks start pre-trained, from the lowest; None is all, and the final norm."""
        return self.init_blocks if self.init_fraction is None else max(1, int(self.init_fraction * depth))


@dataclass(kw_only=True)
class ClassifyConfig(FinetuneConfig):
    """Fine-tuning for classification."""

    labels_per_class: int | None = setting(None, low=1, high=10**9, later=True)
    """training images of each class, or all of a smaller class (in place of num_images or fraction); null = all"""
    label_list: str | None = setting(None, later=True)
    """file with the names of the training images used, one a line, such as SimCLR's 1percent.txt; null = all"""
    crop_scale_min: float = setting(0.6, above=0, high=1)
    """smallest area fraction of RandomResizedCrop (paper: 0.08)"""
    auto_augment: str | None = setting(None)
    """timm's policy string, e.g. rand-m9-mstd0.5-inc1; null = none"""
    random_erasing: float = setting(0.0, low=0, high=1)
    """probability of erasing a rectangle"""
    label_smoothing: float = setting(0.1, low=0, high=0.9)
    """mass spread over the other classes"""
    mixup: float = setting(0.0, low=0)
    """Beta parameter of mixup; 0 = off"""
    cutmix: float = setting(0.0, low=0)
    """Beta parameter of cutmix; 0 = off"""
    head_lr: float | None = setting(None, above=0)
    """peak learning rate of the classifier and of the final norm, not scaled by the batch; null = as the rest"""
    pool: str = setting("mean", choices=("mean", "last"))
    """what the head reads: mean of the patch outputs, normed again (released), or the last token's output (paper)"""
    crop_pct: float = setting(1.0, low=0.1, high=1)
    """evaluation: the part of the resized image's side that the centre crop keeps"""
    crop_mode: str = setting("center", choices=("center", "squash"))
    """evaluation: resize the shorter side, or squash the image to a square (released large model)"""

    @property
    def mixes_pairs(self) -> bool:
        """Whether mixup or cutmix is on."""
        return bool(self.mixup or self.cutmix)


@dataclass(kw_only=True)
class SegmentConfig(FinetuneConfig):
    """Semantic segmentation with a UPerNet head."""

    channels: int = setting(32, low=1, high=2**14)
    """width of the UPerNet head"""
    dropout: float = setting(0.0, low=0, high=0.9)
    """dropout of whole channels before the classifier of the head"""
    aux_weight: float = setting(0.0, low=0)
    """weight of the auxiliary FCN head's loss; 0 = no such head"""
    aux_channels: int = setting(32, low=1, high=2**14)
    """width of the auxiliary head"""
    scale_min: float = setting(0.75, above=0, high=10)
    """smallest random resize, relative to shorter side = image_size"""
    scale_max: float = setting(1.5, above=0, high=10)
    """largest random resize, relative to shorter side = image_size"""
    cat_max_ratio: float = setting(1.0, above=0, high=1)
    """draw a crop anew (ten times at most) while one class covers more than this part of it; 1 = off"""
    photometric: bool = setting(False)
    """random brightness, contrast, saturation and hue in training"""
    eval_mode: str = setting("slide", choices=("slide", "whole"))
    """evaluation: overlapping windows of side image_size, or the whole image at once"""
    multi_scale: bool = setting(False)
    """also evaluate the mean over six scales and flips, as miou_multi_scale"""

    @property
    def can_compile(self) -> bool:
        """Its backbone takes images of any size, for each of which the graph would be compiled anew."""
        return False


@dataclass(kw_only=True)
class ProbeConfig(TaskConfig):
    """Heads on the frozen backbone: linear, attentive and nearest neighbours, at any block."""

    labels_per_class: int | None = setting(None, low=1, high=10**9, later=True)
    """training images of each class, or all of a smaller class (in place of num_images or fraction); null = all"""
    epochs: float | None = setting(4.0, above=0, high=10**6)
    """length in passes over the training images (give this or steps)"""
    base_lr: float = setting(3e-2, above=0)
    """centre of the heads' learning rates, x batch_size / 256; each head is trained at several around it"""
    weight_decay: float = setting(0.0, low=0)
    """AdamW weight decay (not on biases)"""
    beta2: float = setting(0.999, low=0, high=0.99999)
    """AdamW second-moment decay"""
    clip_grad_norm: float = setting(0.0, low=0)
    """global gradient-norm clip; 0 = off, or the heads would slow one another"""
    hflip: float = setting(0.0, low=0, high=1)
    """probability of a horizontal flip in training (digits must not be mirrored)"""
    crop_scale_min: float = setting(0.6, above=0, high=1)
    """smallest area fraction of RandomResizedCrop"""
    attention: str = setting("bidirectional", choices=("bidirectional", "causal"))
    """attention mask of the frozen backbone"""
    layers: str = setting("quarters")
    """outputs probed: all (with the patch embedding), quarters, last, or block numbers from 0 as 2,5 (and the last)"""
    attentive: bool = setting(True)
    """also train an attentive head: one learned query over the patch outputs"""
    knn_neighbours: int = setting(20, low=0, high=10**5)
    """neighbours that vote (temperature 0.07, cosine); 0 = no nearest-neighbour probe"""
    init_ema: bool = setting(False)
    """probe the moving average of the pre-trained weights"""
    crop_pct: float = setting(1.0, low=0.1, high=1)
    """evaluation: the part of the resized image's side that the centre crop keeps"""
