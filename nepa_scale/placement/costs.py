"""What a task will cost, from its configuration alone: the planner shows it, the result file records it.

Convention: a multiply-add is 2 FLOPs, only matrix products and convolutions count, training is 3 x forward; of a
frozen backbone forward alone. Evaluation is not counted, and so neither are a probe's nearest neighbours.
Causal attention is counted as useful work, T(T+1)/2 of the T^2 scores.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

from nepa_scale.config import ladder
from nepa_scale.config.layers import probed_layers
from nepa_scale.config.schema import RunConfig
from nepa_scale.config.subsets import num_classes, num_used_images
from nepa_scale.placement.memory import ELEMENT, FP32, METRICS_LIBRARIES, Workload, backbone_bytes, block_bytes

FLOPS_CONVENTION = (
    "multiply-add = 2; training = 3 x forward (frozen: 1 x); causal attention counts T(T+1)/2 of T^2 scores;"
    " the last token of causal pre-training is not counted"
)
POOL_SCALES = (1, 2, 3, 6)
NUM_LEVELS = 4

#: A probe's heads are each trained at these multiples of the base learning rate and reported at the best one, as in
#: DINOv2 (arXiv 2304.07193): how large a rate fits depends on the layer and on what the head reads of it.
RATE_FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class TaskCost:
    """Totals of one task over all devices. ``flops_executed`` counts masked scores and recomputed blocks too."""

    params_total: int
    params_backbone: int
    steps: int
    images_seen: int
    unique_images: int
    tokens_seen: int
    flops_train: int
    flops_executed: int


class Convolution(NamedTuple):
    """One of a segmentation head's, with its output's ``side``; ``norm``: GroupNorm and ReLU follow, else a bias."""

    inputs: int
    outputs: int
    kernel: int
    side: int
    norm: bool = True

    @property
    def params(self) -> int:
        """Weights, and two parameters of a norm's or one of a bias's for each output."""
        return self.inputs * self.outputs * self.kernel**2 + (2 if self.norm else 1) * self.outputs

    @property
    def flops(self) -> int:
        """FLOPs on one image."""
        return 2 * self.inputs * self.outputs * self.kernel**2 * self.side**2


def task_cost(config: RunConfig, task: str, *, activation_checkpointing: bool = False) -> TaskCost:
    """Cost of ``task``. Raises ``DataError`` when its data set cannot be read."""
    section, arch = config.task_config(task), architecture(config, task)
    used = num_used_images(config, task)
    steps = section.total_steps(used)
    images = steps * section.batch_size
    image_size = backbone_image_size(config, task)
    grid = image_size // config.model.patch_size
    head_params, head_flops = head_cost(config, task)
    causal = section.attention == "causal"  # type: ignore[attr-defined]  # every task has it
    idle = idle_tokens(config, task)
    useful, executed = (
        ladder.forward_flops(arch, image_size, causal=causal, count=count, idle_tokens=idle)
        for count in ("useful", "executed")
    )
    passes = 1 if task == "probe" else 3
    again = (
        ladder.block_flops(arch, image_size, idle_tokens=idle) if activation_checkpointing and task != "probe" else 0
    )
    return TaskCost(
        params_total=ladder.total_params(arch, image_size) + head_params,
        params_backbone=ladder.backbone_params(arch),
        steps=steps,
        images_seen=images,
        unique_images=min(used, images),
        tokens_seen=images * grid * grid,
        flops_train=(passes * useful + 3 * head_flops) * images,
        flops_executed=(passes * executed + again + 3 * head_flops) * images,
    )


def workload(config: RunConfig, task: str) -> Workload:
    """What training ``task`` holds in memory. Raises ``DataError`` when its data set cannot be read."""
    arch, image_size = architecture(config, task), backbone_image_size(config, task)
    head_params, _ = head_cost(config, task)
    backbone = ladder.total_params(arch, image_size)
    idle = idle_tokens(config, task)
    kept, recomputing, working = backbone_bytes(arch, image_size, config.engine.precision, idle_tokens=idle)
    if task == "probe":  # nothing is kept of a frozen backbone, and only one block is at work
        kept, recomputing = 0, 0
        working = block_bytes(arch, ladder.num_tokens(arch, image_size), ELEMENT[config.engine.precision])
    if (
        task == "segment"
    ):  # before the blocks' backward pass comes that of one head's scores, a gradient as large as they
        working = max(working, FP32 * num_classes(config, task) * config.segment.image_size**2)
    head = head_bytes(config, task)
    return Workload(
        tokens=ladder.num_tokens(arch, image_size),
        params=backbone + head_params,
        trained=head_params if task == "probe" else backbone + head_params,
        largest_tensor=max(arch.embed_dim * arch.mlp_hidden, 3 * arch.embed_dim**2),
        largest_block=ladder.block_params(arch),
        kept=kept + head,
        kept_recomputing=recomputing + head,
        working=working,
        averaged=config.task_config(task).ema_decay > 0,
        libraries=METRICS_LIBRARIES if task == "segment" else 0,
    )


def idle_tokens(config: RunConfig, task: str) -> int:
    """Tokens that training leaves out of the blocks: the last one in causal next-embedding prediction, which predicts
    nothing and which no other looks at."""
    return int(task == "pretrain" and config.pretrain.shift and config.pretrain.attention == "causal")


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
    """(parameters, forward FLOPs per image) of the pyramid and the UPerNet head on a ``grid`` x ``grid`` map."""
    layers = upernet_layers(width, channels, classes, grid, patch_size)
    between = 2 * width if 4.0 in pyramid_scales(patch_size) else 0  # the norm between two doublings
    return between + sum(layer.params for layer in layers), sum(layer.flops for layer in layers)


def upernet_layers(width: int, channels: int, classes: int, grid: int, patch_size: int) -> list[Convolution]:
    """The convolutions of ``nepa_scale.tasks.segmentation.upernet`` in their order; a test holds the two together.

    A doubling is a transposed convolution: each of its inputs meets 2 x 2 weights, so it counts at its input's side.
    """
    layers, sides = [], []
    for scale in pyramid_scales(patch_size):
        side, doublings = grid, {4.0: 2, 2.0: 1}.get(scale, 0)
        for _ in range(doublings):
            layers.append(Convolution(width, width, 2, side, norm=False))
            side *= 2
        sides.append(side if scale >= 1 else max(1, int(grid * scale)))
    for side in sides[:-1]:
        layers += [Convolution(width, channels, 1, side), Convolution(channels, channels, 3, side)]
    layers += [Convolution(width, channels, 1, pool) for pool in POOL_SCALES]
    layers.append(Convolution(width + len(POOL_SCALES) * channels, channels, 3, sides[-1]))
    layers.append(Convolution(NUM_LEVELS * channels, channels, 3, sides[0]))
    layers.append(Convolution(channels, classes, 1, sides[0], norm=False))
    return layers


def head_bytes(config: RunConfig, task: str) -> int:
    """Bytes autograd keeps of one image in what a task adds to the backbone, its loss included.

    Pre-training: two fp32 predictions and a target of unit length for each token. Segmentation: the input of every
    convolution and, where a norm follows, its output; the scores of every pixel in fp32, twice while their
    gradient is made. The rest is a few vectors for each head.
    """
    arch, size = config.model.architecture(), ELEMENT[config.engine.precision]
    width, classes = arch.embed_dim, num_classes(config, task)
    if task == "pretrain":
        return 3 * FP32 * ladder.num_patches(arch, config.pretrain.image_size) * width
    if task == "classify":
        return 3 * FP32 * (width + classes)
    if task == "probe":
        heads = len(probed_layers(config.probe.layers, arch.depth))
        patches = ladder.num_patches(arch, config.probe.image_size)
        pooled = 2 * (width + 3 * len(RATE_FACTORS) * classes)
        return FP32 * heads * (pooled + (3 * patches * width if config.probe.attentive else 0))
    section, grid = config.segment, backbone_image_size(config, "segment") // config.model.patch_size
    layers = upernet_layers(width, section.channels, classes, grid, config.model.patch_size)
    if section.aux_weight:
        layers.append(Convolution(width, section.aux_channels, 3, grid))
    elements = sum(layer.side**2 * (layer.inputs + (layer.outputs if layer.norm else 0)) for layer in layers)
    scores = (2 if section.aux_weight else 1) * classes * section.image_size**2
    return size * elements + 2 * FP32 * scores


def fcn_cost(width: int, channels: int, classes: int, grid: int) -> tuple[int, int]:
    """(parameters, forward FLOPs per image) of the FCN head on a ``grid`` x ``grid`` map."""
    convolution, classifier = 9 * width * channels, channels * classes
    return convolution + 2 * channels + classifier + classes, 2 * (convolution + classifier) * grid * grid
