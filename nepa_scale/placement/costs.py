"""What a task will cost, from its configuration alone: FLOPs and samples, and what it leaves on disk. Free of torch.

Convention: a multiply-add is 2 FLOPs, only matrix products and convolutions count, training is 3 x forward; of a
frozen backbone forward alone. Evaluation is not counted, and so neither are a probe's nearest neighbours.
Causal attention is counted as useful work, T(T+1)/2 of the T^2 scores.

On disk a finished task leaves its last checkpoints and its weights. A checkpoint holds, for each trained parameter, the
weight in fp32, Adam's two moments (Muon's one of a matrix) and, where there is one, the moving average; frozen weights
are there as they are computed with. Manifests, logs and pictures, some hundred KB, are not counted, nor is the one
checkpoint more that lies beside the others while it is being written.
"""

from __future__ import annotations

from dataclasses import dataclass

from nepa_scale.config import ladder
from nepa_scale.config.data_facts import num_classes, num_used_images
from nepa_scale.config.early_stop import StepSet, evaluation_steps, every
from nepa_scale.config.learning_rate import kept_steps
from nepa_scale.config.registry import spec
from nepa_scale.config.schema import RunConfig
from nepa_scale.placement.memory import (
    ELEMENT,
    FP32,
    MOMENTS,
    NO_MORE,
    Workload,
    backbone_bytes,
    block_bytes,
    gpu_bytes,
)

FLOPS_CONVENTION = (
    "multiply-add = 2; training = 3 x forward (frozen: 1 x); causal attention counts T(T+1)/2 of T^2 scores;"
    " the last token of causal pre-training is not counted"
)


#: How often Muon's polynomial is applied to a matrix in each step (``nepa_scale.optim.muon``).
NEWTON_SCHULZ_ITERATIONS = 5


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


def task_cost(config: RunConfig, task: str, *, activation_checkpointing: bool = False) -> TaskCost:
    """Cost of ``task``. Raises ``DataError`` when its data set cannot be read."""
    section, arch = config.task_config(task), config.architecture(task)
    used = num_used_images(config, task)
    steps = section.total_steps(used)
    images = steps * section.batch_size
    image_size = config.backbone_image_size(task)
    grid = image_size // config.model.patch_size
    head = spec(task).head_cost(config, num_classes(config, task))
    causal = section.attention == "causal"  # type: ignore[attr-defined]  # every task has it
    useful, executed = (
        ladder.forward_flops(arch, image_size, causal=causal, count=count, idle_tokens=section.idle_tokens)
        for count in ("useful", "executed")
    )
    passes, recomputed = (1, 0) if spec(task).frozen_backbone else (3, int(activation_checkpointing))
    again = recomputed * ladder.block_flops(arch, image_size, idle_tokens=section.idle_tokens)
    return TaskCost(
        params_total=ladder.total_params(arch, image_size) + head.params,
        params_backbone=ladder.backbone_params(arch),
        steps=steps,
        images_seen=images,
        unique_images=min(used, images),
        tokens_seen=images * grid * grid,
        flops_train=(passes * useful + 3 * head.flops) * images,
        flops_executed=(passes * executed + again + 3 * head.flops) * images,
    )


def orthogonalising_flops(config: RunConfig, task: str) -> int:
    """FLOPs of Muon's Newton-Schulz iterations in one step of ``task``, on every device alike; 0 under AdamW.

    An iteration on a matrix whose shorter side is s and whose longer side is l is three products: 4 s^2 l + 2 s^3.
    """
    if config.task_config(task).optimizer != "muon":
        return 0
    arch = config.architecture(task)
    sides = [sorted(shape) for shape in ladder.block_matrices(arch)]
    return arch.depth * NEWTON_SCHULZ_ITERATIONS * sum(4 * s * s * longer + 2 * s**3 for s, longer in sides)


def compiles_on_gpus(config: RunConfig, task: str) -> bool:
    """Whether GPUs train ``task`` in compiled blocks below stage 3."""
    return config.engine.compile is not False and config.task_config(task).can_compile


def workload(config: RunConfig, task: str) -> Workload:
    """What training ``task`` holds in memory. Raises ``DataError`` when its data set cannot be read."""
    arch, image_size, section = config.architecture(task), config.backbone_image_size(task), config.task_config(task)
    precision, frozen = config.engine.precision, spec(task).frozen_backbone
    tokens = ladder.num_tokens(arch, image_size)
    head = spec(task).head_cost(config, num_classes(config, task))
    params = ladder.total_params(arch, image_size) + head.params
    kept, recomputing, working = backbone_bytes(arch, image_size, precision, idle_tokens=section.idle_tokens)
    on_gpu = gpu_bytes(
        arch, image_size, precision, idle_tokens=section.idle_tokens, compiled=compiles_on_gpus(config, task)
    )
    if frozen:  # nothing is kept of its backbone, and only one block is at work
        kept, recomputing, working, on_gpu = 0, 0, block_bytes(arch, tokens, precision), NO_MORE
    of_head = ELEMENT[precision].product * head.kept + FP32 * head.kept_fp32
    return Workload(
        tokens=tokens,
        params=params,
        trained=head.params if frozen else params,
        largest_tensor=max(arch.embed_dim * arch.mlp_hidden, 3 * arch.embed_dim**2),
        largest_block=ladder.block_params(arch),
        kept=kept + of_head,
        kept_recomputing=recomputing + of_head,
        working=max(working, FP32 * head.working_fp32),
        averaged=section.ema_decay > 0,
        libraries=head.libraries,
        matrices=arch.depth * ladder.block_matrix_params(arch) if section.optimizer == "muon" else 0,
        on_gpu=on_gpu,
    )


@dataclass(frozen=True)
class Storage:
    """Bytes of one ``checkpoint``, how many stay, and bytes of the exported ``weights``."""

    checkpoint: int
    checkpoints: int
    weights: int

    @property
    def total(self) -> int:
        """All that stays."""
        return self.checkpoint * self.checkpoints + self.weights


def task_storage(config: RunConfig, task: str) -> Storage:
    """Bytes that ``task`` leaves. Raises ``DataError`` when its data set cannot be read."""
    work = workload(config, task)
    frozen = spec(task).frozen_backbone  # and so it is where it came from
    exported = work.trained if frozen else work.params
    return Storage(
        checkpoint=(FP32 + MOMENTS + FP32 * work.averaged) * work.trained
        - FP32 * work.matrices
        + ELEMENT[config.engine.precision].weight * (work.params - work.trained),
        checkpoints=checkpoints_left(config, task, task_cost(config, task).steps),
        weights=FP32 * exported * (1 + work.averaged),
    )


def checkpoints_left(config: RunConfig, task: str, steps: int) -> int:
    """Checkpoints on disk after the last of ``steps``: the newest of those saved, and those kept for branches."""
    saving = config.checkpoint
    kept = frozenset(step for step in kept_steps(saving.keep_steps) if step < steps)
    saved = saved_steps(config, task, steps)
    older = sum(saved.count(after=step) + 1 >= saving.keep for step in kept)  # than the newest: the last step is one
    return min(saving.keep, saved.count() + 1) + older


def saved_steps(config: RunConfig, task: str, steps: int) -> StepSet:
    """The steps before the last of ``steps`` after which a checkpoint is written."""
    saving = config.checkpoint
    kept = StepSet(steps - 1, others=kept_steps(saving.keep_steps))
    return every(saving.every, steps - 1) | evaluation_steps(config.task_config(task), steps) | kept
