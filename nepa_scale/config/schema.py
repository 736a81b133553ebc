"""The run configuration: one object describes one point of a study and all three tasks done on it.

Settings of two kinds live side by side. *Result* settings change what a run computes and make up its identity
(``run_id``); *orchestration* settings (paths, logging, how the work is spread over devices) do not, so the same
run may move to another machine or be logged more often and still be the same run.

This module is free of torch: a wrong setting is reported before anything heavy is imported.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import operator
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from nepa_scale.config import ladder
from nepa_scale.data import preprocessing
from nepa_scale.data.info import DEFAULT_ROOT, EMBEDDED_NAME

TASKS = ("pretrain", "probe", "classify", "segment")
LAYER_CHOICES = ("all", "quarters", "last")

LIMITS = ("choices", "low", "high", "above")
"""A number whose field states no upper limit of its own is at most this, so that a plan of it stays finite."""


def setting(
    default: Any,
    *,
    choices: tuple[str, ...] | None = None,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    orchestration: bool = False,
) -> Any:
    """A dataclass field with its range: ``low <= value <= high``, ``value > above``, or one of ``choices``.

    ``high`` of a number is ``LARGEST`` unless it is given.
    """
    limits = dict(zip(LIMITS, (choices, low, high, above), strict=True))
    metadata = {name: limit for name, limit in limits.items() if limit is not None}
    return field(default=default, metadata={**metadata, "orchestration": orchestration})


@dataclass(kw_only=True)
class ModelConfig:
    """The backbone: a rung of the ladder, and what may differ from it."""

    size: str = setting("nano", choices=tuple(ladder.LADDER))
    """rung of the size ladder"""
    patch_size: int = setting(8, low=1, high=4096)
    """side of a square patch, in pixels"""
    embed_dim: int | None = setting(None, low=4, high=2**16)
    """token width; null = the rung's"""
    depth: int | None = setting(None, low=1, high=1000)
    """number of transformer blocks; null = the rung's"""
    num_heads: int | None = setting(None, low=1, high=4096)
    """attention heads per block; null = the rung's"""
    mlp: str = setting("gelu", choices=("gelu", "swiglu"))
    """gelu (the authors' released weights) or swiglu (the paper's text)"""
    mlp_hidden: int | None = setting(None, low=1, high=2**18)
    """width between the MLP's layers; null = the rung's (4 x embed_dim up to giant), 2/3 of it for swiglu"""
    qk_norm: str = setting("plain", choices=("none", "plain", "weight"))
    """LayerNorm of queries and keys: none, plain (no parameters) or weight (a weight, no bias)"""
    layer_scale: bool = setting(True)
    """multiply each branch by a learned vector (LayerScale)"""
    layer_scale_init: float = setting(1e-5, above=0)
    """initial value of LayerScale"""
    pos_embed: str = setting("rope", choices=("rope", "absolute"))
    """2-D rotary position embedding, or a learned vector added to each token (the plain ViT of the ablations)"""
    class_token: bool = setting(True)
    """prepend a learned token, which predicts the first patch"""
    weight_init: str = setting("authors", choices=("authors", "xavier"))
    """initial weights: std 0.02 (authors; for widths of 768 and more) or xavier (MAE; learns sooner when narrow)"""
    rope_rescale: float = setting(2.0, low=1)
    """training-time scale of RoPE coordinates, drawn log-uniformly from [1/r, r]; 1 = off"""

    def architecture(self) -> ladder.Architecture:
        """The resolved shape of the backbone."""
        return ladder.architecture(
            self.size,
            self.patch_size,
            mlp=cast(ladder.MlpKind, self.mlp),
            mlp_hidden=self.mlp_hidden,
            qk_norm=cast(ladder.QkNorm, self.qk_norm),
            layer_scale=self.layer_scale,
            pos_embed=cast(ladder.PosEmbed, self.pos_embed),
            class_token=self.class_token,
            embed_dim=self.embed_dim,
            depth=self.depth,
            num_heads=self.num_heads,
        )


@dataclass(kw_only=True)
class DataConfig:
    """Where data sets lie and how they are read."""

    root: str = setting(DEFAULT_ROOT, orchestration=True)
    """folder that holds the data sets, one folder each"""
    num_workers: int = setting(0, low=0, high=1024, orchestration=True)
    """loader processes per device; 0 = load in the training process"""
    max_bad_fraction: float = setting(1e-4, low=0, high=1, orchestration=True)
    """undecodable images that may be replaced in a pass, as a part of the training images (one always may)"""
    streaming: bool = setting(False)
    """read shards from front to back through webdataset, not by index; needed for remote shards"""
    allow_remote: bool = setting(False, orchestration=True)
    """permit shards at URLs (the url of _info.json)"""
    stated: str | None = setting(None, orchestration=True)
    """plans without data: '{NAME: {train: N, validation: N, classes: K, mask_classes: M}}', or a file with that"""
    mean: str = setting("0.5")
    """subtracted from pixels 0..1: one number or three, dataset (its training images'), or image (each image's own)"""
    std: str = setting("0.5")
    """then divided by: one number or three, dataset, or image; as data.mean"""

    @property
    def by_image(self) -> bool:
        """Whether the model standardises each image by itself."""
        return self.mean == preprocessing.BY_IMAGE


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
    weight_decay: float = setting(0.05, low=0)
    """AdamW weight decay (not on biases, norms and LayerScale)"""
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
    """Next-embedding prediction."""

    epochs: float | None = setting(4.0, above=0, high=10**6)
    """length in passes over the training images (give this or steps)"""
    lr_rule: str = setting("fixed", choices=("fixed", "power", "mup"))
    """the rate of other sizes: base_lr as well, a power of the parameters, or by width for each kind of tensor (muP)"""
    lr_reference: str | None = setting(None, choices=tuple(ladder.LADDER))
    """lr_rule=power, mup: rung of the size ladder whose learning rate is base_lr"""
    lr_exponent: float | None = setting(None, low=-2, high=1)
    """lr_rule=power: peak learning rate x (parameters / the reference's) to this power"""
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
    """fraction of input patches replaced by a learned token; targets stay clean (ablation, paper Table 1c)"""
    stop_on_collapse: bool | None = setting(None, orchestration=True)
    """end when the embeddings of all patches are the same; false = warn; null = end, but warn without stop_gradient"""


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
    init_blocks: int | None = setting(None, low=0, high=1000)
    """blocks that start pre-trained, from the lowest; fresh are the others and the final norm; null = all and it"""
    init_fraction: float | None = setting(None, above=0, high=1)
    """in place of init_blocks: the fraction of the blocks, rounded down, one at least"""
    tuning_images: int = setting(0, low=0, high=10**9)
    """training images, the same in every run, that are not trained on: the finished task is scored on them, too"""

    def initial_blocks(self, depth: int) -> int | None:
        """How many of ``depth`` blocks start pre-trained, from the lowest; None is all, and the final norm."""
        return self.init_blocks if self.init_fraction is None else max(1, int(self.init_fraction * depth))


@dataclass(kw_only=True)
class ClassifyConfig(FinetuneConfig):
    """Fine-tuning for classification."""

    labels_per_class: int | None = setting(None, low=1, high=10**9)
    """training images of each class, or all of a smaller class (in place of num_images or fraction); null = all"""
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


@dataclass(kw_only=True)
class ProbeConfig(TaskConfig):
    """Heads on the frozen backbone: linear, attentive and nearest neighbours, at any block."""

    labels_per_class: int | None = setting(None, low=1, high=10**9)
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


@dataclass(kw_only=True)
class EngineConfig:
    """DeepSpeed and precision."""

    ds_config: str = setting("auto", orchestration=True)
    """auto, a name in ds_configs/ (zero0 ... zero3, zero3_offload, zero3_nvme) or the path of a DeepSpeed JSON file"""
    precision: str = setting("fp32", choices=("fp32", "bf16", "fp16"))
    """number format of weights and activations in the forward and backward pass (fp16 with loss scaling, on GPUs)"""
    activation_checkpointing: bool | None = setting(None, orchestration=True)
    """recompute block activations in the backward pass to save memory; null = where memory is short"""
    device_memory_gib: float | None = setting(None, above=0, high=10**6, orchestration=True)
    """memory of one device to plan with; null = what a GPU has free, or this machine's memory shared by its ranks"""
    timeout_minutes: float = setting(20.0, above=0, high=10**6, orchestration=True)
    """a rank that gets nowhere for so long ends the job (three times this while starting or saving)"""
    rendezvous_seconds: float = setting(60.0, above=0, high=10**6, orchestration=True)
    """how long ranks wait for one another at the start"""
    compile: bool | None = setting(None, orchestration=True)
    """compile the blocks with torch.compile; null = on GPUs, and on CPUs if the training is long enough to repay it"""


@dataclass(kw_only=True)
class CheckpointConfig:
    """Saving and resuming."""

    every: int = setting(100, low=0, orchestration=True)
    """save every so many steps; 0 = only when stopped by a signal"""
    keep: int = setting(1, low=1, orchestration=True)
    """checkpoints kept on disk"""
    keep_steps: str | None = setting(None, orchestration=True)
    """also save after these steps, e.g. 80,160, and keep that for runs that branch off; null = none"""
    branch_from: str | None = setting(None, orchestration=True)
    """pretrain folder of a longer run: begin at its newest kept step before this run's decay (schedule=wsd)"""
    asynchronous: bool | None = setting(None, orchestration=True)
    """write in the background of training, from a copy of the state in host memory; null = yes on GPUs, no on CPUs"""


@dataclass(kw_only=True)
class LogConfig:
    """What is written while a task runs."""

    every: int = setting(10, low=1, orchestration=True)
    """write a metrics line every so many steps"""
    tensorboard: bool = setting(True, orchestration=True)
    """also write TensorBoard event files"""
    pictures: int = setting(4, low=0, high=1000, orchestration=True)
    """validation images drawn with their attention and similarity maps when pre-training ends; 0 = none"""


#: Settings that earlier versions did not have, with the value that does what those did: they change no run_id.
LATER = {
    "data.mean": preprocessing.canonical("0.5"),
    "data.std": preprocessing.canonical("0.5"),
    "probe.labels_per_class": None,
    "classify.labels_per_class": None,
    "classify.init_blocks": None,
    "segment.init_blocks": None,
    "classify.init_fraction": None,
    "segment.init_fraction": None,
    "classify.tuning_images": 0,
    "segment.tuning_images": 0,
}


@dataclass(kw_only=True)
class RunConfig:
    """One point of a study: pre-train, then probe, fine-tune for classification and for segmentation."""

    task: str = setting("pretrain", choices=TASKS, orchestration=True)
    """which task of the run to do now"""
    run_dir: str | None = setting(None, orchestration=True)
    """folder of the run; null = runs/<run_id>"""
    pretrain_dir: str | None = setting(None, orchestration=True)
    """finished pre-training with these settings (a study shares it between its runs); null = <run_dir>/pretrain"""
    init: str = setting("pretrain")
    """where the other tasks start: pretrain (this run's own), scratch, or a folder with model.safetensors or a run"""
    seed: int = setting(0, low=0, high=2**32 - 1)
    """seed of initialisation, data order and augmentation"""
    micro_batch_size: int | None = setting(None, low=1, high=2**20, orchestration=True)
    """images per device in one forward pass; null = the device's whole share of the batch, or what of it fits"""
    force: bool = setting(False, orchestration=True)
    """start although the memory estimate says that the devices cannot hold the task"""
    dry_run: bool = setting(False, orchestration=True)
    """show what would be done, and do nothing"""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    classify: ClassifyConfig = field(default_factory=ClassifyConfig)
    segment: SegmentConfig = field(default_factory=SegmentConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)

    @property
    def run_id(self) -> str:
        """Readable prefix plus a hash of every result setting."""
        start = {"pretrain": "", "scratch": "-scratch"}.get(self.init, "-from")
        return f"{self.model.size}-p{self.model.patch_size}{start}-{config_digest(self.identity())}"

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks this run has: a run that starts elsewhere does no pre-training of its own."""
        return TASKS if self.init == "pretrain" else TASKS[1:]

    def task_config(self, task: str | None = None) -> TaskConfig:
        """The section of ``task`` (default: the task to do now)."""
        section: TaskConfig = getattr(self, task or self.task)
        return section

    @property
    def finetuning(self) -> dict[str, FinetuneConfig]:
        """The sections of the tasks that train the whole model on labels."""
        return {"classify": self.classify, "segment": self.segment}

    def identity(self, tasks: Collection[str] = TASKS) -> dict[str, Any]:
        """The result settings that ``tasks`` depend on, flat; without pre-training's where the run does none, and
        without those of no effect: ``decay`` where there is none, a rule of the learning rate where it is fixed, and
        what earlier versions did not have where it is not asked for."""
        values = {key: value_in(self) for key, value_in in _result_settings().items()}
        values |= {key: preprocessing.canonical(values[key]) for key in ("data.mean", "data.std")}
        idle = {key for key, value in LATER.items() if values[key] == value}
        idle |= {f"{task}.decay" for task in TASKS if self.task_config(task).schedule != "wsd"}
        idle |= {"pretrain.lr_exponent"} if self.pretrain.lr_rule != "power" else set()
        idle |= {"pretrain.lr_rule", "pretrain.lr_reference"} if self.pretrain.lr_rule == "fixed" else set()
        return {
            key: value
            for key, value in values.items()
            if key not in idle
            and (self.init == "pretrain" or not key.startswith("pretrain."))
            and (key.split(".")[0] in tasks or key.split(".")[0] not in TASKS)
        }

    def pretrain_identity(self) -> dict[str, Any]:
        """The result settings that pre-training depends on, flat: runs where they are equal can share it."""
        return {key: value for key, value in self.identity(("pretrain",)).items() if key != "init"}

    def flat(self) -> dict[str, Any]:
        """Every setting by its dotted key."""
        return {key: value for key, value, _ in walk(self)}


def walk(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield (dotted key, value, field metadata) of every setting below ``section``, in declaration order."""
    for item in dataclasses.fields(section):
        value = getattr(section, item.name)
        if dataclasses.is_dataclass(value):
            yield from walk(value, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", value, dict(item.metadata)


@functools.cache
def _result_settings() -> dict[str, Callable[[RunConfig], Any]]:
    """{dotted key: what reads it} of every result setting; a plan of many runs asks each for all of them."""
    return {key: operator.attrgetter(key) for key, _, meta in walk(RunConfig()) if not meta["orchestration"]}


def config_digest(content: dict[str, Any]) -> str:
    """A short hash of settings: equal settings, equal hash."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
