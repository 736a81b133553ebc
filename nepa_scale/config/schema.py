"""The run configuration: one object describes one point of a study and all tasks done on it.

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
import operator
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from nepa_scale.config import ladder, sizes
from nepa_scale.config.registry import FIRST_TASKS, TASKS, downstream, finetuned, plugged_in, spec
from nepa_scale.config.task_settings import (
    ClassifyConfig,
    FinetuneConfig,
    PretrainConfig,
    ProbeConfig,
    SegmentConfig,
    TaskConfig,
    setting,
)
from nepa_scale.data import label_list, preprocessing
from nepa_scale.data.info import DEFAULT_ROOT


@dataclass(kw_only=True)
class ModelConfig:
    """The backbone: a rung of the ladder, and what may differ from it."""

    size: str = setting("nano", choices=sizes.LADDER)
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

    @property
    def states_shape(self) -> bool:
        """Whether width, depth and heads are given, so that the name of the size need not be on the ladder."""
        return None not in (self.embed_dim, self.depth, self.num_heads) and sizes.is_size_name(self.size)

    def shape(self) -> sizes.Shape:
        """Width, depth and heads: the rung's, or as given."""
        return sizes.shape_of(self.size, self.embed_dim, self.depth, self.num_heads)

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
    mean: str = setting("0.5", later=True)
    """subtracted from pixels 0..1: one number or three, dataset (its training images'), or image (each image's own)"""
    std: str = setting("0.5", later=True)
    """then divided by: one number or three, dataset, or image; as data.mean"""

    @property
    def by_image(self) -> bool:
        """Whether the model standardises each image by itself."""
        return self.mean == preprocessing.BY_IMAGE


@dataclass(kw_only=True)
class EngineConfig:
    """DeepSpeed and precision."""

    ds_config: str = setting("auto", orchestration=True)
    """auto, a name in ds_configs/ (zero0 ... zero3, zero3_offload, zero3_nvme) or the path of a DeepSpeed JSON file"""
    precision: str = setting("fp32", choices=("fp32", "bf16-autocast", "bf16", "fp16"))
    """number format: fp32; bf16-autocast (fp32 weights, products in bf16, as the authors train); bf16 or fp16: all that
    is computed with, by DeepSpeed (fp16 with loss scaling, on GPUs)"""
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
    nvtx: bool = setting(False, orchestration=True)
    """on NVIDIA GPUs: mark data, steps, evaluations and checkpoints as NVTX ranges, for Nsight Systems"""


@dataclass(kw_only=True)
class CheckpointConfig:
    """Saving and resuming."""

    every: int = setting(100, low=0, orchestration=True)
    """save every so many steps; 0 = only before an evaluation, at the end and when stopped"""
    keep: int = setting(1, low=1, orchestration=True)
    """checkpoints kept on disk"""
    keep_steps: str | None = setting(None, orchestration=True)
    """also save after these steps, e.g. 80,160, and keep that for runs that branch off; null = none"""
    branch_from: str | None = setting(None, orchestration=True)
    """pretrain folder of a longer run: begin at its newest kept step before this run's decay (schedule=wsd)"""
    asynchronous: bool | None = setting(None, orchestration=True)
    """write in the background of training, from a copy of the state in host memory; null = on GPUs whose states are not
    offloaded"""


@dataclass(kw_only=True)
class LogConfig:
    """What is written while a task runs."""

    every: int = setting(10, low=1, orchestration=True)
    """write a metrics line every so many steps"""
    tensorboard: bool = setting(True, orchestration=True)
    """also write TensorBoard event files"""
    trackers: str | None = setting(None, orchestration=True)
    """send records to these, e.g. [tensorboard,wandb], also trackio and mlflow; null = as log.tensorboard"""
    pictures: int = setting(4, low=0, high=1000, orchestration=True)
    """validation images drawn with their attention and similarity maps when pre-training ends; 0 = none"""
    profile: str | None = setting(None, orchestration=True)
    """first and last step to profile, e.g. 10:20: writes their trace and costliest operations; null = none"""

    def profiled_steps(self) -> range:
        """The numbers, from 1, of the steps to profile. Raises ``ValueError`` where ``profile`` is not FIRST:LAST."""
        if self.profile is None:
            return range(0)
        first, last = map(int, self.profile.split(":"))
        if not 1 <= first <= last:
            raise ValueError(self.profile)
        return range(first, last + 1)

    def tracker_names(self) -> list[str]:
        """The trackers that records are sent to."""
        if self.trackers is None:
            return ["tensorboard"] if self.tensorboard else []
        return [name.strip() for name in self.trackers.strip("[]").split(",") if name.strip()]


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
        own = "" if self.pretrain.init == "scratch" else "-continued"
        start = {"pretrain": own, "scratch": "-scratch"}.get(self.init, "-from")
        return f"{self.model.size}-p{self.model.patch_size}{start}-{config_digest(self.identity())}"

    @property
    def start(self) -> str:
        """Where the task to do now starts: ``pretrain`` (this run's own), ``scratch``, or a folder."""
        return self.init if spec(self.task).downstream else self.pretrain.init

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks this run has: a run that starts elsewhere does no pre-training of its own."""
        return TASKS if self.init == "pretrain" else tuple(task.name for task in downstream())

    def task_config(self, task: str | None = None) -> TaskConfig:
        """The section of ``task`` (default: the task to do now)."""
        section: TaskConfig = getattr(self, task or self.task)
        return section

    def architecture(self, task: str) -> ladder.Architecture:
        """The backbone as ``task`` has it: fine-tuning may change QK-norm."""
        arch, qk_norm = self.model.architecture(), self.task_config(task).own_qk_norm
        return arch if qk_norm is None else dataclasses.replace(arch, qk_norm=cast(ladder.QkNorm, qk_norm))

    def backbone_image_size(self, task: str) -> int:
        """Side of the images that the backbone of ``task`` sees: some tasks pad them to whole patches."""
        size, patch_size = self.task_config(task).image_size, self.model.patch_size
        return -(-size // patch_size) * patch_size if spec(task).pads_images else size

    @property
    def finetuning(self) -> dict[str, FinetuneConfig]:
        """The sections of the tasks that train the whole model on labels."""
        return {task.name: cast(FinetuneConfig, self.task_config(task.name)) for task in finetuned()}

    def identity(self, tasks: Collection[str] = TASKS) -> dict[str, Any]:
        """The result settings that ``tasks`` depend on, flat; without pre-training's where the run does none, and
        without those of no effect: ``decay`` where there is none, a rule of the learning rate where it is fixed, and
        what earlier versions, and installations without a plugin, do not have where it is not asked for."""
        values = {key: value_in(self) for key, value_in in _result_settings().items()}
        values |= {key: preprocessing.canonical(values[key]) for key in ("data.mean", "data.std")}
        if self.classify.label_list is not None:
            values["classify.label_list"] = label_list.identity(self.classify.label_list)
        values["pretrain.lr_reference"] = _with_own_shape(values["pretrain.lr_reference"])
        idle = {key for key, value in LATER.items() if values[key] == value}
        idle |= {key for key, value in _settings_of_later_tasks().items() if values[key] == value}
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


def _with_plugins(config: type[RunConfig]) -> type[RunConfig]:
    """``config`` with a section for each task that a plugin registered."""
    added = [(task.name, task.section, field(default_factory=task.section)) for task in plugged_in()]
    if not added:
        return config
    named = {"__module__": __name__}
    return dataclasses.make_dataclass("RunConfig", added, bases=(config,), namespace=named, kw_only=True)


if not TYPE_CHECKING:
    RunConfig = _with_plugins(RunConfig)


def _with_own_shape(size: str | None) -> str | None:
    """A size's name and, of a size of the user's folder, its shape: another shape makes another run."""
    own = None if size is None or size in sizes.SHIPPED else sizes.own_sizes().get(size)
    return size if own is None else f"{size} {own.embed_dim}x{own.depth}x{own.num_heads}"


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


@functools.cache
def _settings_of_later_tasks() -> dict[str, Any]:
    """{dotted key: its default} of every result setting of tasks that the first version did not have."""
    names, default = set(TASKS) - set(FIRST_TASKS), RunConfig()
    return {key: value_in(default) for key, value_in in _result_settings().items() if key.split(".")[0] in names}


#: {dotted key: its default} of the settings that earlier versions did not have.
LATER = {
    key: preprocessing.canonical(value) if key in ("data.mean", "data.std") else value
    for key, value, meta in walk(RunConfig())
    if meta["later"]
}


def config_digest(content: dict[str, Any]) -> str:
    """A short hash of settings: equal settings, equal hash."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
