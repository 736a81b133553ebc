"""Ranges and cross-field rules of a configuration. Every rule returns its complaints, so all are reported at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nepa_scale import ladder, lr_rules, milestones
from nepa_scale.config import LAYER_CHOICES, RunConfig, TaskConfig, walk
from nepa_scale.data import layout, policies
from nepa_scale.data.reporting import Report
from nepa_scale.errors import DataError, nearest
from nepa_scale.layers import numbered_blocks

FP16_NEEDS_GPU = "engine.precision=fp16: CPUs do not compute in fp16; use bf16 or fp32, or a GPU"
SUBSET_KEYS = ("num_images", "fraction")
NEEDS: dict[str, tuple[layout.Need, ...]] = {
    "pretrain": (),
    "probe": ("label",),
    "classify": ("label",),
    "segment": ("mask",),
}


def check_values(config: RunConfig, tasks: tuple[str, ...]) -> list[str]:
    """Problems of the configuration alone: ranges, choices, and rules across the fields of ``tasks``."""
    problems = [line for key, value, meta in walk(config) for line in out_of_range(key, value, meta)]
    if problems:
        return problems
    return [
        *_head_problems(config),
        *_image_size_problems(config, tasks),
        *_length_problems(config, tasks),
        *_streaming_problems(config, tasks),
        *(line for task in tasks for line in milestones.problems(config, task)),
        *(lr_rules.problems(config) if "pretrain" in tasks else []),
        *_task_problems(config),
    ]


def check_data(config: RunConfig, tasks: tuple[str, ...]) -> list[str]:
    """Problems of the data sets that ``tasks`` read, and of asking for more images than there are."""
    root, problems = Path(config.data.root), []
    for task in tasks:
        section = config.task_config(task)
        knn = task == "pretrain" and milestones.asks_for_knn(section)
        found = layout.check_dataset(root, section.dataset, needs=("label",) if knn else NEEDS[task])
        available = 0 if found else layout.split_size(root, section.dataset, "train")
        if available and (section.num_images or 0) > available:
            found = [f"{task}.num_images={section.num_images}: {section.dataset} has only {available} training images"]
        if not found:
            data = config.data
            found = layout.access_problems(
                root, section.dataset, streaming=data.streaming, allow_remote=data.allow_remote
            )
        problems += found
    return list(dict.fromkeys(problems))


def check_milestones(config: RunConfig, tasks: tuple[str, ...]) -> list[str]:
    """Milestones that lie beyond the end of their task; a data set that cannot be used has its own line already."""
    problems = []
    for task in tasks:
        section = config.task_config(task)
        if section.milestones is not None:
            with suppress(DataError):
                available = layout.split_size(Path(config.data.root), section.dataset, "train")
                total = section.total_steps(section.used_images(available))
                problems += milestones.beyond(section, task, total)
    return problems


def check_contents(config: RunConfig, tasks: tuple[str, ...], report: Report | None = None) -> list[str]:
    """Problems inside the shards that ``tasks`` read by index, which is made where there is none."""
    if config.data.streaming:
        return []
    names = dict.fromkeys(config.task_config(task).dataset for task in tasks)
    return [line for name in names for line in layout.check_contents(Path(config.data.root), name, report)]


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
            share = batch // world_size
            near = max(size for size in range(1, share + 1) if share % size == 0 and size <= micro)
            problems.append(
                f"micro_batch_size={micro} does not divide {task}'s batch per device"
                f" ({batch} / {world_size} = {share}); nearest that does: {near}"
            )
        elif task == "classify" and (config.classify.mixup or config.classify.cutmix):
            size = micro or batch // world_size
            if size % 2:
                problems.append(
                    f"classify.mixup and cutmix pair images, but a forward pass has {size}: use an even number"
                )
    return problems


def out_of_range(key: str, value: Any, meta: Mapping[str, Any]) -> list[str]:  # noqa: PLR0911  one rule a line
    """Problems of one setting alone: not within the limits of its field's metadata, or empty."""
    if value is None:
        return []
    if value == "":
        return [f"{key}= is empty; give a value or leave the key out"]
    if "choices" in meta and value not in meta["choices"]:
        return [f"{key}={value}: not one of {', '.join(meta['choices'])}{nearest(str(value), meta['choices'])}"]
    if isinstance(value, float) and not math.isfinite(value):
        return [f"{key}={value}: must be a finite number"]
    if "low" in meta and value < meta["low"]:
        return [f"{key}={value}: must be at least {meta['low']}"]
    if "above" in meta and value <= meta["above"]:
        return [f"{key}={value}: must be greater than {meta['above']}"]
    if "high" in meta and value > meta["high"]:
        return [f"{key}={value}: must be at most {meta['high']}"]
    return []


def _head_problems(config: RunConfig) -> list[str]:
    rung = ladder.LADDER[config.model.size]
    width, heads = config.model.embed_dim or rung.embed_dim, config.model.num_heads or rung.num_heads
    unit = 4 if config.model.pos_embed == "rope" else 1
    if width % (unit * heads):
        fitting = [count for count in range(1, width // unit + 1) if width % (unit * count) == 0]
        near = min(fitting, key=lambda count: abs(count - heads), default=0)
        remedy = f"nearest number of heads that fits: {near}" if near else f"make the width a multiple of {unit}"
        into = " of a multiple of 4 channels (2-D RoPE)" if unit > 1 else ""
        return [f"model.num_heads={heads} does not divide model.embed_dim={width} into heads{into}; {remedy}"]
    return []


def _image_size_problems(config: RunConfig, tasks: tuple[str, ...]) -> list[str]:
    problems, patch = [], config.model.patch_size
    tasks = tuple(task for task in tasks if task != "segment")  # which pads its images to whole patches
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
        if section.num_images is not None and section.fraction is not None:
            given = f"{task}.num_images={section.num_images} and {task}.fraction={section.fraction}"
            problems.append(f"{given}: give only one of the two")
        if section.epochs is None and section.steps is None:
            problems.append(f"{task}.epochs and {task}.steps are both null: give one of the two")
    return problems


def _streaming_problems(config: RunConfig, tasks: tuple[str, ...]) -> list[str]:
    if not config.data.streaming:
        return []
    by_index = ["data.streaming=true: task=probe reads by index; give data.streaming=false for it"]
    chosen = {f"{task}.{key}": getattr(config.task_config(task), key) for task in tasks for key in SUBSET_KEYS}
    return (by_index if "probe" in tasks else []) + [
        f"{key}={value}: data.streaming=true reads whole shards and can choose no subset"
        for key, value in chosen.items()
        if value is not None
    ]


def _shard_problems(config: RunConfig, tasks: tuple[str, ...], world_size: int) -> list[str]:
    """Problems of dealing shards out; a data set that cannot be used has its own line already."""
    counts = set()
    for task in tasks:
        with suppress(DataError):
            info = layout.dataset_info(Path(config.data.root), config.task_config(task).dataset)
            counts.add(len(info.splits["train"].filenames))
    problems = (layout.too_few_shards(count, world_size, config.data.num_workers) for count in sorted(counts) if count)
    return [problem for problem in problems if problem is not None]


def _task_problems(config: RunConfig) -> list[str]:
    problems = []
    if config.task not in config.tasks:
        problems.append(f"task={config.task}: a run with init={config.init} has no pre-training of its own")
    for key, width in {"channels": config.segment.channels, "aux_channels": config.segment.aux_channels}.items():
        if width % 4:
            problems.append(f"segment.{key}={width}: must be a multiple of 4 (GroupNorm)")
    if config.init == "pretrain" and not config.pretrain.ema_decay:
        problems += [
            f"{task}.init_ema=true: pretrain.ema_decay=0 keeps no moving average; the paper's is 0.9999"
            for task in config.tasks
            if getattr(config.task_config(task), "init_ema", False)
        ]
    problems += policies.problems("classify.auto_augment", config.classify.auto_augment)
    problems += _layer_problems(config)
    if config.segment.scale_min > config.segment.scale_max:
        problems.append(
            f"segment.scale_min={config.segment.scale_min} is above segment.scale_max={config.segment.scale_max}"
        )
    return problems


def _layer_problems(config: RunConfig) -> list[str]:
    depth, named = config.model.depth or ladder.LADDER[config.model.size].depth, config.probe.layers
    if named in LAYER_CHOICES or numbered_blocks(named, depth) is not None:
        return []
    return [f"probe.layers={named}: give {', '.join(LAYER_CHOICES)} or block numbers from 0 to {depth - 1}, e.g. 0,2"]
