"""What a task will cost, from its configuration alone: the planner shows it, the result file records it.

Convention: a multiply-add is 2 FLOPs, only matrix products and convolutions count, training is 3 x forward; of a
frozen backbone forward alone. Evaluation is not counted, and so neither are a probe's nearest neighbours.
Causal attention is counted as useful work, T(T+1)/2 of the T^2 scores.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from nepa_scale import ladder
from nepa_scale.config import RunConfig
from nepa_scale.data import layout
from nepa_scale.layers import probed_layers

FLOPS_CONVENTION = (
    "multiply-add = 2; training = 3 x forward (frozen: 1 x); causal attention counts T(T+1)/2 of T^2 scores"
)
POOL_SCALES = (1, 2, 3, 6)
BYTES_PER_TRAINED_PARAMETER = 16  # fp32 weight, gradient and two AdamW moments
BYTES_PER_AVERAGED_PARAMETER = 4  # the moving average in fp32, shared out like the optimiser's state
NUM_LEVELS = 4

#: A probe's heads are each trained at these multiples of the base learning rate and reported at the best one, as in
#: DINOv2 (arXiv 2304.07193): how large a rate fits depends on the layer and on what the head reads of it.
RATE_FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class TaskCost:
    """Totals of one task. ``memory_bytes`` is per device; the other figures are over all devices."""

    params_total: int
    params_backbone: int
    steps: int
    images_seen: int
    unique_images: int
    tokens_seen: int
    flops_train: int
    memory_bytes: int


def task_cost(config: RunConfig, task: str, *, world_size: int = 1, zero_stage: int = 0) -> TaskCost:
    """Cost of ``task``. Raises ``DataError`` when its data set cannot be read."""
    section, arch = config.task_config(task), architecture(config, task)
    available = num_train_images(config, task)
    used = section.used_images(available)
    steps = section.total_steps(used)
    images = steps * section.batch_size
    image_size = backbone_image_size(config, task)
    grid = image_size // config.model.patch_size
    head_params, head_flops = head_cost(config, task)
    causal = section.attention == "causal"  # type: ignore[attr-defined]  # every task has it
    forward = ladder.forward_flops(arch, image_size, causal=causal, count="useful")
    passes = 1 if task == "probe" else 3
    memory = ladder.memory(
        arch,
        image_size,
        micro_batch_size=config.micro_batch_size or max(1, section.batch_size // world_size),
        precision=cast(ladder.Precision, config.engine.precision),
        zero_stage=zero_stage,
        world_size=world_size,
    )
    params = ladder.total_params(arch, image_size) + head_params
    kept, trained = (memory.weights, head_params) if task == "probe" else (memory.total, params)
    average = BYTES_PER_AVERAGED_PARAMETER * trained // (world_size if zero_stage else 1) if section.ema_decay else 0
    return TaskCost(
        params_total=params,
        params_backbone=ladder.backbone_params(arch),
        steps=steps,
        images_seen=images,
        unique_images=min(used, images),
        tokens_seen=images * grid * grid,
        flops_train=(passes * forward + 3 * head_flops) * images,
        memory_bytes=kept + BYTES_PER_TRAINED_PARAMETER * head_params + average,
    )


def backbone_image_size(config: RunConfig, task: str) -> int:
    """Side of the images that a task's backbone sees: segmentation's are padded to whole patches."""
    size = config.task_config(task).image_size
    return padded_size(size, config.model.patch_size) if task == "segment" else size


def padded_size(size: int, patch_size: int) -> int:
    """The next multiple of the patch: 518 for 512 pixels and patches of 14."""
    return -(-size // patch_size) * patch_size


def architecture(config: RunConfig, task: str) -> ladder.Architecture:
    """The backbone as the task has it: fine-tuning may change QK-norm."""
    arch = config.model.architecture()
    qk_norm = getattr(config.task_config(task), "qk_norm", None)
    return dataclasses.replace(arch, qk_norm=qk_norm) if qk_norm else arch


def num_train_images(config: RunConfig, task: str) -> int:
    """Size of the task's training split."""
    return layout.split_size(Path(config.data.root), config.task_config(task).dataset, "train")


def num_classes(config: RunConfig, task: str) -> int:
    """Classes of the task's labels (probe, classify) or masks (segment); 0 for pre-training, which reads neither."""
    if task == "pretrain":
        return 0
    count = layout.mask_classes if task == "segment" else layout.num_classes
    return count(Path(config.data.root), config.task_config(task).dataset)


def head_cost(config: RunConfig, task: str) -> tuple[int, int]:
    """(parameters, forward FLOPs per image) of what a task adds to the backbone."""
    width, classes = config.model.architecture().embed_dim, num_classes(config, task)
    if task == "pretrain":
        return (width if config.pretrain.mask_ratio else 0), 0  # the mask token
    if task == "classify":
        norm = 2 * width if config.classify.pool == "mean" else 0
        return norm + classes * (width + 1), 2 * width * classes
    if task == "probe":
        return probe_cost(config, width, classes)
    return segment_cost(config, width, classes)


def segment_cost(config: RunConfig, width: int, classes: int) -> tuple[int, int]:
    """(parameters, forward FLOPs per image) of the UPerNet head and, if there is one, of the auxiliary head."""
    section, patch_size = config.segment, config.model.patch_size
    grid = backbone_image_size(config, "segment") // patch_size
    params, flops = upernet_cost(width, section.channels, classes, grid, patch_size)
    if section.aux_weight:
        aux_params, aux_flops = fcn_cost(width, section.aux_channels, classes, grid)
        return params + aux_params, flops + aux_flops
    return params, flops


def probe_cost(config: RunConfig, width: int, classes: int) -> tuple[int, int]:
    """(parameters, forward FLOPs per image) of a probe's heads at all rates.

    Two linear heads for each layer; an attentive one adds its query, and keys and values of N patches with one row
    of scores: 4 N D^2 + 4 N D.
    """
    arch, section = config.model.architecture(), config.probe
    copies = len(RATE_FACTORS) * len(probed_layers(section.layers, arch.depth))
    linear_params, linear_flops = classes * (width + 1), 2 * width * classes
    params, flops = 2 * linear_params, 2 * linear_flops
    if section.attentive:
        patches = ladder.num_patches(arch, section.image_size)
        params += linear_params + 2 * width * width + width
        flops += linear_flops + 4 * patches * width * (width + 1)
    return copies * params, copies * flops


def pyramid_scales(patch_size: int) -> tuple[float, ...]:
    """Factors that bring a patch grid to strides of about 4, 8, 16 and 32 pixels, as UPerNet expects."""
    finest = 4.0 if patch_size >= 12 else 2.0 if patch_size >= 6 else 1.0
    return tuple(finest / 2**level for level in range(NUM_LEVELS))


def upernet_cost(width: int, channels: int, classes: int, grid: int, patch_size: int) -> tuple[int, int]:
    """(parameters, forward FLOPs per image) of the pyramid and the UPerNet head on a ``grid`` x ``grid`` map.

    Counts the layers of ``nepa_scale.segmentation.upernet`` in their order; a test holds the two together.
    """
    params = flops = 0

    def convolution(inputs: int, outputs: int, kernel: int, side: int, *, norm: bool = True) -> None:
        nonlocal params, flops
        weights = inputs * outputs * kernel * kernel
        params += weights + (2 * outputs if norm else outputs)
        flops += 2 * weights * side * side

    sides = []
    for scale in pyramid_scales(patch_size):
        side, doublings = grid, {4.0: 2, 2.0: 1}.get(scale, 0)
        for doubling in range(doublings):
            convolution(width, width, 2, side, norm=False)
            params += 2 * width if doubling + 1 < doublings else 0
            side *= 2
        sides.append(side if scale >= 1 else max(1, int(grid * scale)))
    for side in sides[:-1]:
        convolution(width, channels, 1, side)
        convolution(channels, channels, 3, side)
    for pool in POOL_SCALES:
        convolution(width, channels, 1, pool)
    convolution(width + len(POOL_SCALES) * channels, channels, 3, sides[-1])
    convolution(NUM_LEVELS * channels, channels, 3, sides[0])
    convolution(channels, classes, 1, sides[0], norm=False)
    return params, flops


def fcn_cost(width: int, channels: int, classes: int, grid: int) -> tuple[int, int]:
    """(parameters, forward FLOPs per image) of ``nepa_scale.segmentation.fcn``'s head on a ``grid`` x ``grid`` map."""
    convolution, classifier = 9 * width * channels, channels * classes
    return convolution + 2 * channels + classifier + classes, 2 * (convolution + classifier) * grid * grid
