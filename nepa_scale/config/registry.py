"""The tasks of a run, one ``TaskSpec`` each: what the plan, the training and the reports must know of a task; and the
trackers by name.

To add a task, write its settings (``task_settings``, with a field in ``schema.RunConfig``), its spec here, its class
and its head's cost under ``nepa_scale.tasks``; or all of them in a package of yours that calls ``register``
(docs/extending.md). Free of torch.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from nepa_scale.config.task_settings import ClassifyConfig, PretrainConfig, ProbeConfig, SegmentConfig, TaskConfig
from nepa_scale.data.layout import Need
from nepa_scale.utils.user_folder import Registry

if TYPE_CHECKING:
    from nepa_scale.config.schema import RunConfig


@dataclass(frozen=True)
class Metric:
    """A number that a task's evaluation gives, by its ``key`` in ``result.json``."""

    key: str
    label: str
    """What it is called in reports."""
    unit: Literal["percent", "number"]
    """How reports write it; one in percent is a fraction in files."""
    lower_is_better: bool = False
    judged: bool = False
    """Whether it tells a good run from a bad one, so that milestones may name it."""
    reported: bool = True
    """Whether reports have a column of it."""
    requires: str | None = None
    """What must be true of the task's section, a setting or a property of it, or the metric is not measured."""


@dataclass(frozen=True)
class Headline:
    """The metric that a task is known by. It is a fraction of which 1 is perfect."""

    metric: str
    """Key of the metric."""
    score: str
    """How the metric is written: top-1."""
    error: str | None = None
    """What 1 - metric is called, if laws describe it: classification error."""
    baseline: str | None = None
    """Key of the metric's value for an answer that takes no learning, on the same data."""
    baseline_name: str = ""
    """What that answer is."""
    tuning: str | None = None
    """Key of the same metric on the tuning images, by which the best of several runs is chosen."""
    by_image: bool = False
    """Whether the metric is the fraction of the validation images that are answered correctly."""


@dataclass(frozen=True)
class HeadCost:
    """A head's ``params`` and, of one image, its forward ``flops`` and the elements that it holds in memory.

    Attributes:
        kept: elements that autograd keeps, in the precision of training; ``kept_fp32``: those in fp32, of the loss.
        working_fp32: elements in fp32 that the backward pass of the loss holds besides, before that of the blocks.
        libraries: bytes of host memory that the task's own libraries take, once.
    """

    params: int
    flops: int = 0
    kept: int = 0
    kept_fp32: int = 0
    working_fp32: int = 0
    libraries: int = 0


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One task."""

    name: str
    """Its value of ``task=``, the section of its settings and its folder in a run."""
    section: type[TaskConfig]
    """The class of its settings."""
    title: str
    """Heading of its results in reports."""
    activity: str
    """First word of a sentence that says what was done: Probing."""
    phase: str
    """What the time is called in which it trains: fine-tuning."""
    metrics: tuple[Metric, ...]
    """In the order of reports."""
    headline: Headline
    class_name: str
    """Its ``tasks.task.Task``, which imports torch, as ``module:class``."""
    cost_name: str = "nepa_scale.tasks.costs:linear_head"
    """What gives the cost of its head for a number of classes, as ``module:function``; ``head_cost`` calls it."""
    needs: tuple[Need, ...] = ()
    """What it reads besides images."""
    downstream: bool = True
    """Whether it starts from pre-trained weights, and so has a baseline from scratch."""
    frozen_backbone: bool = False
    """Whether it trains its heads alone."""
    pads_images: bool = False
    """Whether it pads images to whole patches, so that any size will do."""

    @property
    def images(self) -> str:
        """What its training images are called."""
        return "labelled images" if self.needs else "images"

    @property
    def task_class(self) -> Callable[..., Any]:
        """The class that trains it; this imports torch."""
        task_class: Callable[..., Any] = pkgutil.resolve_name(self.class_name)
        return task_class

    def head_cost(self, config: RunConfig, classes: int) -> HeadCost:
        """What its head for so many ``classes`` adds to the backbone."""
        cost: HeadCost = pkgutil.resolve_name(self.cost_name)(config, classes)
        return cost


_LOSS = Metric("loss", "loss", "number", lower_is_better=True, judged=True)
_TOP1_MAJORITY = Metric("top1_majority", "top-1 of majority class", "percent")

PRETRAIN = TaskSpec(
    name="pretrain",
    section=PretrainConfig,
    title="Pretraining",
    activity="Pretraining",
    phase="pretraining",
    metrics=(
        Metric("skill", "skill", "number", judged=True),
        Metric("cosine", "cosine", "number", judged=True, reported=False, requires="predicts_embeddings"),
        _LOSS,
        Metric("copy_baseline", "copy baseline", "number"),
        Metric("mean_baseline", "mean baseline", "number"),
        Metric("self_cosine", "cosine to own input", "number"),
        Metric("effective_rank_embeddings", "rank of embeddings", "number", judged=True),
        Metric("effective_rank_outputs", "rank of outputs", "number", judged=True),
        # Measured only where a milestone names it: it needs labels.
        Metric("knn_top1", "k-NN top-1", "percent", judged=True, reported=False),
    ),
    headline=Headline("skill", "skill", error="shortfall of pretraining skill"),
    class_name="nepa_scale.tasks.pretrain:Pretrain",
    cost_name="nepa_scale.config.objectives:head_cost",
    downstream=False,
)
PROBE = TaskSpec(
    name="probe",
    section=ProbeConfig,
    title="Probes of the frozen backbone",
    activity="Probing",
    phase="probing",
    metrics=(
        Metric("linear_last", "linear, last token", "percent", judged=True),
        Metric("linear_mean", "linear, mean", "percent", judged=True),
        Metric("attentive", "attentive", "percent", judged=True, requires="attentive"),
        Metric("knn_last", "k-NN, last token", "percent", judged=True, requires="knn_neighbours"),
        Metric("knn_mean", "k-NN, mean", "percent", judged=True, requires="knn_neighbours"),
        _LOSS,
        _TOP1_MAJORITY,
    ),
    headline=Headline("attentive", "probe"),
    class_name="nepa_scale.tasks.probe:Probe",
    cost_name="nepa_scale.tasks.costs:probe_heads",
    needs=("label",),
    frozen_backbone=True,
)
CLASSIFY = TaskSpec(
    name="classify",
    section=ClassifyConfig,
    title="Classification",
    activity="Classification",
    phase="fine-tuning",
    metrics=(
        Metric("top1", "top-1", "percent", judged=True),
        Metric("tuning_top1", "top-1, tuning images", "percent"),
        Metric("top5", "top-5", "percent", judged=True),
        _LOSS,
        _TOP1_MAJORITY,
    ),
    headline=Headline(
        "top1",
        "top-1",
        error="classification error",
        baseline="top1_majority",
        baseline_name="the most frequent class for every image",
        tuning="tuning_top1",
        by_image=True,
    ),
    class_name="nepa_scale.tasks.classify:Classify",
    cost_name="nepa_scale.tasks.costs:normed_linear_head",
    needs=("label",),
)
SEGMENT = TaskSpec(
    name="segment",
    section=SegmentConfig,
    title="Segmentation",
    activity="Segmentation",
    phase="fine-tuning",
    metrics=(
        Metric("miou", "mIoU", "percent", judged=True),
        Metric("tuning_miou", "mIoU, tuning images", "percent"),
        Metric("miou_multi_scale", "mIoU, multi-scale", "percent"),
        Metric("mean_accuracy", "mean accuracy", "percent", judged=True),
        Metric("pixel_accuracy", "pixel accuracy", "percent", judged=True),
        _LOSS,
        Metric("miou_majority", "mIoU of background only", "percent"),
    ),
    headline=Headline(
        "miou",
        "mIoU",
        error="segmentation error",
        baseline="miou_majority",
        baseline_name="the background alone, a mask without any object",
        tuning="tuning_miou",
    ),
    class_name="nepa_scale.tasks.segment:Segment",
    cost_name="nepa_scale.tasks.costs:segment_heads",
    needs=("mask",),
    pads_images=True,
)

SECTIONS = ("model", "data", "engine", "checkpoint", "log")
"""The sections of a configuration that are no task's, whose names no task can have."""

#: In the order in which a run does them.
SPECS = Registry("task", {task.name: task for task in (PRETRAIN, PROBE, CLASSIFY, SEGMENT)}, reserved=SECTIONS)
BUILT_IN = tuple(SPECS)
FIRST_TASKS = ("pretrain", "probe", "classify", "segment")
"""Those of the first version. Settings of other tasks change no ``run_id`` until they are given."""

#: Experiment trackers, ``module:class`` by name.
TRACKERS = Registry(
    "tracker",
    {
        "tensorboard": "nepa_scale.training.tracker_kinds:TensorBoard",
        "wandb": "nepa_scale.training.tracker_kinds:WeightsAndBiases",
        "trackio": "nepa_scale.training.tracker_kinds:Trackio",
        "mlflow": "nepa_scale.training.tracker_kinds:MLflow",
    },
)


def register(task: TaskSpec) -> None:
    """Add the task of a plugin, after those that are there. Raises ``UserError`` where its name is taken."""
    SPECS.register(task.name, task)


def register_tracker(name: str, class_name: str) -> None:
    """Add the tracker of a plugin: a ``training.trackers.Tracker``, as ``module:class``. Raises ``UserError``."""
    TRACKERS.register(name, class_name)


SPECS.load_plugins()
TRACKERS.load_plugins()
TASKS = tuple(SPECS)


def spec(name: str) -> TaskSpec:
    """The task called ``name``. Raises ``KeyError`` where there is none, which ``task=`` never lets through."""
    return SPECS[name]


def downstream() -> tuple[TaskSpec, ...]:
    """The tasks that start from pre-trained weights."""
    return tuple(task for task in SPECS.values() if task.downstream)


def finetuned() -> tuple[TaskSpec, ...]:
    """The downstream tasks that train the whole model."""
    return tuple(task for task in downstream() if not task.frozen_backbone)


def plugged_in() -> tuple[TaskSpec, ...]:
    """The tasks that plugins registered."""
    return tuple(task for task in SPECS.values() if task.name not in BUILT_IN)


def labelled() -> tuple[TaskSpec, ...]:
    """The tasks that read labels or masks."""
    return tuple(task for task in SPECS.values() if task.needs)


def with_error() -> tuple[TaskSpec, ...]:
    """The tasks whose headline error laws describe: downstream tasks first, as the study is about these."""
    ordered = sorted(SPECS.values(), key=lambda task: not task.downstream)
    return tuple(task for task in ordered if task.headline.error is not None)


def lower_is_better(key: str) -> bool:
    """Whether a lower value of the metric ``key`` is better, whatever the task."""
    return any(metric.lower_is_better for task in SPECS.values() for metric in task.metrics if metric.key == key)
