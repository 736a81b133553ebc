"""Ranges and cross-field rules of a configuration. Every rule returns its complaints, so all are reported at once."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from nepa_scale.config import data_facts, early_stop, learning_rate, objectives
from nepa_scale.config.data_facts import (
    class_sizes,
    label_list,
    labels_per_class,
    num_train_images,
    num_used_images,
    tuning_images,
)
from nepa_scale.config.ladder import LAYER_CHOICES, numbered_blocks
from nepa_scale.config.registry import TRACKERS, spec
from nepa_scale.config.schema import RunConfig, walk
from nepa_scale.config.task_settings import TaskConfig
from nepa_scale.data import label_list as label_lists
from nepa_scale.data import layout, preprocessing
from nepa_scale.data.info import folder_of
from nepa_scale.utils.cli import out_of_range
from nepa_scale.utils.errors import DataError, nearest
from nepa_scale.utils.progress import Report

FP16_NEEDS_GPU = "engine.precision=fp16: CPUs do not compute in fp16; use bf16 or fp32, or a GPU"
SUBSET_KEYS = ("num_images", "fraction")
LABEL_KEY = "labels_per_class"  # a third way to say it, of the tasks that read labels
LIST_KEY = "label_list"  # a fourth, of classification
TUNING_KEY = "tuning_images"
START_KEYS = ("init_blocks", "init_fraction")  # two ways to say how much of the weights is taken


def check_values(config: RunConfig, tasks: tuple[str, ...]) -> list[str]:
    """Problems of the configuration alone: ranges, choices, and rules across the fields of ``tasks``."""
    named = {"model.size"} if config.model.states_shape else set()
    values = ((key, value, meta) for key, value, meta in walk(config) if key not in named)
    problems = [line for key, value, meta in values for line in out_of_range(key, value, meta)]
    if problems:
        return problems
    return [
        *preprocessing.problems(config.data.mean, config.data.std),
        *_head_problems(config),
        *_image_size_problems(config, tasks),
        *_length_problems(config, tasks),
        *_streaming_problems(config, tasks),
        *(line for task in tasks for line in early_stop.problems(config, task)),
        *(learning_rate.problems(config) if "pretrain" in tasks else []),
        *(line for task in tasks for line in _optimizer_problems(config, task)),
        *(objectives.problems(config) if "pretrain" in tasks else []),
        *_task_problems(config),
        *_tracker_problems(config),
        *_profile_problems(config),
    ]


def check_data(config: RunConfig, tasks: tuple[str, ...], *, planning: bool = False) -> list[str]:
    """Problems of the data sets that ``tasks`` read, and of asking for more images than there are.

    ``planning``: facts may stand in for a data set that is not there.
    """
    root, data, problems = Path(config.data.root), config.data, []
    for task in tasks:
        name = config.task_config(task).dataset
        lines = data_facts.contradictions(root, name, data.stated)
        if planning and data_facts.stated_facts(root, name, data.stated) is not None:
            lines += layout.missing_needs(data_facts.info_of(root, name, data.stated), _needs(config, task))
        else:
            absent = planning and not folder_of(root, name).exists()
            remedy = f"; a plan needs no more than {data_facts.EXAMPLE}" if absent else ""
            lines += [f"{line}{remedy}" for line in _dataset_problems(config, task)]
        problems += lines or _count_problems(config, task) or _class_problems(config, task)
        problems += [] if lines else _list_problems(config, task)
    return list(dict.fromkeys(problems))


def read_by_check_data(config: RunConfig, task: str) -> tuple[Any, ...]:
    """What ``check_data`` reads for ``task``: where this is equal, so are its problems."""
    section = config.task_config(task)
    subset = (*_subset(section).items(), tuning_images(section))
    return dataclasses.astuple(config.data), task, section.dataset, section.milestones, subset


def _dataset_problems(config: RunConfig, task: str) -> list[str]:
    """Why the data set of ``task``, as it lies there, cannot be read."""
    root, name, data = Path(config.data.root), config.task_config(task).dataset, config.data
    return (
        layout.check_dataset(root, name, needs=_needs(config, task))
        or layout.access_problems(root, name, streaming=data.streaming, allow_remote=data.allow_remote)
        or layout.check_standardisation(root, name, data.mean, data.std)
    )


def _needs(config: RunConfig, task: str) -> tuple[layout.Need, ...]:
    """What ``task`` reads besides images; a milestone of nearest neighbours needs labels."""
    return ("label",) if early_stop.asks_for_knn(config.task_config(task)) else spec(task).needs


def stated_data(config: RunConfig, tasks: tuple[str, ...]) -> list[str]:
    """A text for each data set that is not there and of which facts are planned with instead."""
    root, data = Path(config.data.root), config.data
    names = dict.fromkeys(config.task_config(task).dataset for task in tasks)
    facts_of = {name: data_facts.stated_facts(root, name, data.stated) for name in names}
    return [data_facts.describe(name, facts) for name, facts in facts_of.items() if facts is not None]


def _count_problems(config: RunConfig, task: str) -> list[str]:
    """Why the training split has too few images for those kept for tuning, or for num_images beside them."""
    section = config.task_config(task)
    kept, available = tuning_images(section), num_train_images(config, task)
    if kept and kept >= available:
        have = f"{section.dataset} has only {available} training images"
        return [f"{task}.{TUNING_KEY}={kept}: {have}, and none is left to train on; give less than {available}"]
    if available and (section.num_images or 0) > available - kept:
        beside = f" beside the {kept} of {task}.{TUNING_KEY}" if kept else ""
        few = f"{section.dataset} has only {available - kept} training images{beside}"
        return [f"{task}.num_images={section.num_images}: {few}"]
    return []


def _class_problems(config: RunConfig, task: str) -> list[str]:
    """Why no class can give as many images as labels_per_class asks for."""
    section = config.task_config(task)
    asked, kept = labels_per_class(section), tuning_images(section)
    if asked is None and not (kept and "label" in spec(task).needs):
        return []
    try:
        sizes = class_sizes(config, task)
    except DataError as error:
        return str(error).splitlines()
    available = num_train_images(config, task)
    if kept > available - len(sizes):
        most = f"each of its {len(sizes)} classes needs one image to train on; give at most {available - len(sizes)}"
        return [f"{task}.{TUNING_KEY}={kept}: {section.dataset} has {available} training images, and {most}"]
    beside = f" beside those of {task}.{TUNING_KEY}={kept}" if kept else ""
    few = f"{task}.{LABEL_KEY}={asked}: no class of {section.dataset} has more than {max(sizes, default=0)} training"
    return [f"{few} images{beside}"] if (asked or 0) > max(sizes, default=0) else []


def _list_problems(config: RunConfig, task: str) -> list[str]:
    """Why the images that label_list names cannot be those trained on."""
    section = config.task_config(task)
    root, name = Path(config.data.root), section.dataset
    path, kept = label_list(section), tuning_images(section)
    if path is None:
        return []
    if kept:
        return [f"{task}.{LIST_KEY}={path}: {task}.{TUNING_KEY}={kept} could be on it; give {task}.{TUNING_KEY}=0"]
    try:
        if folder_of(root, name).exists() and not config.data.streaming:
            from nepa_scale.data.sources import open_source  # here, as it takes a while

            label_lists.indices(path, open_source(root, name, "train"))
        label_lists.names(path)
    except DataError as error:
        return [f"{task}.{LIST_KEY}={line}" for line in str(error).splitlines()]
    return []


def _subset(section: TaskConfig) -> dict[str, int | float | str]:
    """{key: value} of what says how many training images are used."""
    given = {key: getattr(section, key, None) for key in (*SUBSET_KEYS, LABEL_KEY, LIST_KEY)}
    return {key: value for key, value in given.items() if value is not None}


def describe_data(config: RunConfig) -> str:
    """The data set of the task to do now and the size of its images, for people."""
    section = config.task_config()
    facts = "".join(f"; not in {config.data.root}, stated: {text}" for text in stated_data(config, (config.task,)))
    return f"{section.dataset} at {section.image_size} x {section.image_size} pixels{facts}"


def check_milestones(config: RunConfig, tasks: tuple[str, ...]) -> list[str]:
    """Milestones that lie beyond the end of their task; a data set that cannot be used has its own line already."""
    problems = []
    for task in tasks:
        section = config.task_config(task)
        if section.milestones is not None:
            with suppress(DataError):
                total = section.total_steps(num_used_images(config, task))
                problems += early_stop.beyond(section, task, total)
    return problems


def check_unused(config: RunConfig, tasks: tuple[str, ...]) -> list[str]:
    """Settings that would do nothing: steps to keep beyond the end, a decay without wsd.

    Only for ``tasks`` that have not begun: earlier versions took both, and what they began goes on.
    """
    problems = []
    for task in tasks:
        section = config.task_config(task)
        problems += learning_rate.unused_decay(section, task)
        if config.checkpoint.keep_steps is not None and not spec(task).downstream:
            with suppress(DataError):
                problems += learning_rate.kept_beyond(config, section.total_steps(num_used_images(config, task)))
    return problems


def check_contents(config: RunConfig, tasks: tuple[str, ...], report: Report | None = None) -> list[str]:
    """Problems inside the data sets that ``tasks`` read by index, which is made where there is none."""
    if config.data.streaming:
        return []
    needs: dict[str, set[layout.Need]] = {}
    for task in tasks:
        needs.setdefault(config.task_config(task).dataset, set()).update(spec(task).needs)
    root = Path(config.data.root)
    checks = (layout.check_contents(root, name, needs=read, report=report) for name, read in needs.items())
    return [line for lines in checks for line in lines]


def is_made_on_demand(config: RunConfig, task: str) -> bool:
    """Whether the task reads the embedded data set and it must still be written."""
    return layout.is_unwritten_embedded(Path(config.data.root), config.task_config(task).dataset)


def check_batches(config: RunConfig, tasks: tuple[str, ...], world_size: int) -> list[str]:
    """Problems of dividing each task's batch, and streamed shards, over ``world_size`` devices and micro-batches."""
    problems = _shard_problems(config, tasks, world_size) if config.data.streaming else []
    for task in tasks:
        batch, micro = config.task_config(task).batch_size, config.micro_batch_size
        if batch % world_size:
            near = max(world_size, round(batch / world_size) * world_size)
            problems.append(
                f"{task}.batch_size={batch} does not divide over {world_size} devices; nearest that does: {near}"
            )
        elif micro is not None and (batch // world_size) % micro:
            of_device = batch // world_size
            near = max(size for size in divisors(of_device) if size <= micro)
            problems.append(
                f"micro_batch_size={micro} does not divide {task}'s batch per device"
                f" ({batch} / {world_size} = {of_device}); nearest that does: {near}"
            )
        elif config.task_config(task).mixes_pairs:
            size = micro or batch // world_size
            if size % 2:
                problems.append(
                    f"{task}.mixup and cutmix pair images, but a forward pass has {size}: use an even number"
                )
    return problems


def divisors(number: int) -> list[int]:
    """All divisors of a positive ``number``, smallest first."""
    small = [size for size in range(1, math.isqrt(number) + 1) if number % size == 0]
    return sorted({*small, *(number // size for size in small)})


def _head_problems(config: RunConfig) -> list[str]:
    width, _, heads, _ = config.model.shape()
    unit = 4 if config.model.pos_embed == "rope" else 1
    if width % (unit * heads):
        fitting = divisors(width // unit) if width % unit == 0 else []
        near = min(fitting, key=lambda count: abs(count - heads), default=0)
        remedy = f"nearest number of heads that fits: {near}" if near else f"make the width a multiple of {unit}"
        into = " of a multiple of 4 channels (2-D RoPE)" if unit > 1 else ""
        return [f"model.num_heads={heads} does not divide model.embed_dim={width} into heads{into}; {remedy}"]
    return []


def _image_size_problems(config: RunConfig, tasks: tuple[str, ...]) -> list[str]:
    problems, patch = [], config.model.patch_size
    tasks = tuple(task for task in tasks if not spec(task).pads_images)
    for size in sorted({config.task_config(task).image_size for task in tasks}):
        of = " and ".join(f"{task}.image_size" for task in tasks if config.task_config(task).image_size == size)
        near = max(2 * patch, round(size / patch) * patch)
        if size % patch:
            problems.append(
                f"model.patch_size={patch} does not divide {of}={size}; nearest image size that fits: {near}"
            )
        elif size == patch:
            problems.append(f"{of}={size} holds a single patch, so there is no next one to predict; use {near} or more")
    return problems


def _length_problems(config: RunConfig, tasks: tuple[str, ...]) -> list[str]:
    problems = []
    for task in tasks:
        section: TaskConfig = config.task_config(task)
        if section.epochs is not None and section.steps is not None:
            problems.append(
                f"{task}.epochs={section.epochs} and {task}.steps={section.steps}: give only one of the two"
            )
        given = [f"{task}.{key}={value}" for key, value in _subset(section).items()]
        if len(given) > 1:
            problems.append(f"{' and '.join(given)}: give only one of {'the two' if len(given) == 2 else 'these'}")
        if section.epochs is None and section.steps is None:
            problems.append(f"{task}.epochs and {task}.steps are both null: give one of the two")
    return problems


def _optimizer_problems(config: RunConfig, task: str) -> list[str]:
    """What Muon cannot train, and what AdamW has no use for."""
    section = config.task_config(task)
    if section.optimizer != "muon":
        unused = section.momentum != type(section)().momentum
        return [f"{task}.momentum={section.momentum}: only {task}.optimizer=muon uses it; leave it out"] * unused
    if spec(task).frozen_backbone:
        return [f"{task}.optimizer=muon: {task} trains no block, and only their matrices are Muon's; give adamw"]
    if task == "pretrain" and config.pretrain.lr_rule == "mup":
        return ["pretrain.optimizer=muon: lr_rule=mup is a rule for AdamW's rates; give lr_rule=fixed or power"]
    return []


def _streaming_problems(config: RunConfig, tasks: tuple[str, ...]) -> list[str]:
    if not config.data.streaming:
        return []
    by_index = [
        f"data.streaming=true: task={task} reads by index; give data.streaming=false for it"
        for task in tasks
        if spec(task).frozen_backbone
    ]
    chosen = {f"{task}.{key}": value for task in tasks for key, value in _subset(config.task_config(task)).items()}
    chosen |= {f"{task}.{TUNING_KEY}": kept for task in tasks if (kept := tuning_images(config.task_config(task)))}
    return by_index + [
        f"{key}={value}: data.streaming=true reads whole shards and can choose no subset"
        for key, value in chosen.items()
    ]


def _shard_problems(config: RunConfig, tasks: tuple[str, ...], world_size: int) -> list[str]:
    """Problems of dealing shards out; a data set that cannot be used has its own line already."""
    is_remote = {}
    for task in tasks:
        with suppress(DataError):
            info = layout.dataset_info(Path(config.data.root), config.task_config(task).dataset)
            is_remote[len(info.splits["train"].filenames)] = info.url is not None
    problems = (
        layout.too_few_shards(count, world_size, config.data.num_workers, remote=remote)
        for count, remote in sorted(is_remote.items())
        if count
    )
    return [problem for problem in problems if problem is not None]


def _task_problems(config: RunConfig) -> list[str]:
    problems = []
    if config.task not in config.tasks:
        problems.append(f"task={config.task}: a run with init={config.init} has no pre-training of its own")
    if config.pretrain.init_optimizer == "carried" and config.pretrain.init == "scratch":
        problems.append("pretrain.init_optimizer=carried: from where? Give pretrain.init=RUN, or fresh")
    if config.pretrain.init == "pretrain":
        problems.append("pretrain.init=pretrain: pre-training starts from scratch or from a folder; name it")
    if config.pretrain.init_ema and config.pretrain.init == "scratch":
        problems.append("pretrain.init_ema=true: of which weights? Give pretrain.init=RUN, or leave it out")
    for key, width in {"channels": config.segment.channels, "aux_channels": config.segment.aux_channels}.items():
        if width % 4:
            problems.append(f"segment.{key}={width}: must be a multiple of 4 (GroupNorm)")
    if config.init == "pretrain" and not config.pretrain.ema_decay:
        problems += [
            f"{task}.init_ema=true: pretrain.ema_decay=0 keeps no moving average; the paper's is 0.9999"
            for task in config.tasks
            if spec(task).downstream and getattr(config.task_config(task), "init_ema", False)
        ]
    problems += preprocessing.policy_problems("classify.auto_augment", config.classify.auto_augment)
    problems += _layer_problems(config)
    depth = _depth(config)
    problems += [
        f"{task}.init_blocks={blocks}: the model has {depth} blocks; give 0 to {depth}, or null for all"
        for task, section in config.finetuning.items()
        if (blocks := section.init_blocks) is not None and blocks > depth
    ]
    problems += [
        f"{task}.init_blocks={section.init_blocks} and {task}.init_fraction={section.init_fraction}: give one of them"
        for task, section in config.finetuning.items()
        if None not in (section.init_blocks, section.init_fraction)
    ]
    if config.segment.scale_min > config.segment.scale_max:
        problems.append(
            f"segment.scale_min={config.segment.scale_min} is above segment.scale_max={config.segment.scale_max}"
        )
    return problems


def _tracker_problems(config: RunConfig) -> list[str]:
    """A line for each tracker that does not exist, or is of ours and its package of the same name is not installed."""
    ours = {name for name, class_name in TRACKERS.items() if class_name.startswith("nepa_scale.")}
    return [
        f"log.trackers: '{name}': not one of {', '.join(TRACKERS)}{nearest(name, TRACKERS)}"
        if name not in TRACKERS
        else f"log.trackers: {name} is not installed here; pip install 'nepa-scale[{name}]'"
        for name in config.log.tracker_names()
        if name not in TRACKERS or (name in ours and importlib.util.find_spec(name) is None)
    ]


def _profile_problems(config: RunConfig) -> list[str]:
    try:
        config.log.profiled_steps()
    except ValueError:
        return [f"log.profile={config.log.profile}: give the first and the last step, e.g. 10:20"]
    return []


def _depth(config: RunConfig) -> int:
    return config.model.shape().depth


def _layer_problems(config: RunConfig) -> list[str]:
    depth, named = _depth(config), config.probe.layers
    if named in LAYER_CHOICES or numbered_blocks(named, depth) is not None:
        return []
    choices, last = ", ".join(LAYER_CHOICES), depth - 1
    return [f"probe.layers={named}: give {choices} or block numbers from 0 to {last}, e.g. 0,{last}"]
