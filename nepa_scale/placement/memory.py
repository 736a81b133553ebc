"""How much memory one device needs to train: the plan chooses a placement by it, and a benchmark measures it.

Everything is in bytes. S is the size of a weight (4 in fp32 and bf16-autocast, 2 in bf16 and fp16), P all parameters,
T the trained ones, N the devices, A what autograd keeps of one forward pass, and under autocast the bf16 copies of the
weights that products are computed with. AdamW has two fp32 moments (8 T; Muon one of each matrix), and DeepSpeed's ZeRO
stages 1 to 3 also an fp32 copy of the weights (4 T), in every precision. ZeRO (arXiv 1910.02054) shares out the
optimiser from stage 1, the gradients from stage 2 and the weights from stage 3; the moving average lies where the
optimiser does.

Two moments can need the most. *Backward*: activations, the gradients inside one block, and what accumulates.
*Step*: all gradients, and what DeepSpeed copies them into. Free of torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from nepa_scale.config import ladder
from nepa_scale.config.ladder import Architecture


class ElementBytes(NamedTuple):
    """Bytes of one number: of a weight or its gradient, of what matrix products take and give, of the residual stream
    between the blocks."""

    weight: int
    product: int
    residual: int


#: By ``engine.precision``.
ELEMENT = {
    "fp32": ElementBytes(4, 4, 4),
    "bf16": ElementBytes(2, 2, 2),
    "bf16-autocast": ElementBytes(4, 2, 4),
    "fp16": ElementBytes(2, 2, 2),
}
FP32 = 4
MOMENTS = 8
#: As large as the matrix that Muon is at: itself, what it becomes, and what is between.
MATRICES_AT_ONCE = 5
#: DeepSpeed's stage 0 averages gradients in copies of this many elements at most (MEMORY_OPT_ALLREDUCE_SIZE).
STAGE0_COPY = 500_000_000

#: Of a process on CPUs: Python, torch, DeepSpeed and timm (measured with a build of torch that has CUDA), what
#: DeepSpeed loads for its ZeRO optimisers, and what the first step brings (threads, kernels).
PROCESS, ZERO_PROCESS, FIRST_STEP = 740 * 2**20, 48 * 2**20, 28 * 2**20
#: On a GPU: the CUDA context and the communicator's buffers.
GPU_PROCESS = 1 << 30


class OnGpu(NamedTuple):
    """Bytes that a GPU keeps of one image in all blocks, beside what is kept on a CPU: below stage 3, and there."""

    below_stage_3: int
    at_stage_3: int


NO_MORE = OnGpu(0, 0)


@dataclass(frozen=True)
class Workload:
    """What training a task holds, before it is placed.

    Attributes:
        tokens: of one image, which pass through the blocks together.
        params: all parameters; ``trained``: those that the optimiser updates.
        largest_tensor, largest_block: parameters of the largest tensor, and of one block.
        kept: bytes autograd keeps of one image; ``kept_recomputing``: with activation checkpointing, the block
            that is recomputed included.
        working: bytes of one image that the backward pass of a block, or of the scores, needs besides.
        averaged: whether a moving average of the weights is kept.
        libraries: bytes of host memory that a task's own libraries take.
        matrices: parameters that Muon updates, which have one moment.
        on_gpu: what a GPU keeps of one image besides ``kept``.
    """

    tokens: int
    params: int
    trained: int
    largest_tensor: int
    largest_block: int
    kept: int
    kept_recomputing: int
    working: int
    averaged: bool
    libraries: int = 0
    matrices: int = 0
    on_gpu: OnGpu = NO_MORE


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one device at the moment that needs most. ``buffers``: what DeepSpeed copies and communicates in."""

    weights: int
    gradients: int
    optimiser: int
    average: int
    activations: int
    buffers: int
    process: int
    moment: str

    @property
    def states(self) -> int:
        """What stays from step to step: weights, optimiser and average, and stage 3's gradients."""
        return self.weights + self.optimiser + self.average

    @property
    def total(self) -> int:
        """Sum of the parts."""
        return self.states + self.gradients + self.activations + self.buffers + self.process


def estimate(
    work: Workload,
    *,
    micro_batch_size: int,
    accumulation: int,
    precision: str,
    zero_stage: int,
    world_size: int,
    bucket: int,
    live: int,
    checkpointing: bool = False,
    offload: bool = False,
    on_gpu: bool = False,
) -> MemoryEstimate:
    """Memory of one of ``world_size`` devices.

    Args:
        bucket: elements of ZeRO's communication buffers.
        live: elements that stage 3 keeps whole at a time.
        offload: whether optimiser, gradients and weights are moved to the host (which CPU ranks share).
    """
    size, product, _ = ELEMENT[precision]

    def share(count: int) -> int:
        return -(-count // world_size)

    divided = zero_stage > 0
    trained = share(work.trained) if divided else work.trained
    average = FP32 * trained if work.averaged else 0
    moments = MOMENTS * trained - FP32 * (share(work.matrices) if divided else work.matrices)
    optimiser = moments + (FP32 * trained if divided else 0)
    weights = size * (share(work.params) if zero_stage == 3 else work.params)
    kept = work.kept_recomputing if checkpointing else work.kept
    if on_gpu and not checkpointing:
        kept += work.on_gpu.at_stage_3 if zero_stage == 3 else work.on_gpu.below_stage_3
    activations = micro_batch_size * (kept + work.working)
    if product < size and zero_stage < 3:  # autocast's copies of the weights stay for the backward pass
        activations += product * work.params
    if offload and on_gpu:
        weights, optimiser, average = 0, 0, 0
    on_host = PROCESS + FIRST_STEP + (ZERO_PROCESS if divided else 0) + work.libraries
    process = GPU_PROCESS if on_gpu else on_host
    backward, step = _gradients(work, zero_stage, size, trained, accumulation, bucket, live, alone=world_size == 1)
    if work.matrices:  # Muon's direction, and the largest matrix as it is orthogonalised
        orthogonalising = (share(work.matrices) if divided else 0) + MATRICES_AT_ONCE * work.largest_tensor
        step = step[0], step[1] + FP32 * orthogonalising
    needs = {"backward": (activations, *backward), "step": (0, *step)}
    moment = max(needs, key=lambda name: sum(needs[name]))
    at_peak, gradients, buffers = needs[moment]
    return MemoryEstimate(weights, gradients, optimiser, average, at_peak, buffers, process, moment)


def offloaded_bytes(work: Workload, world_size: int) -> int:
    """Host memory of one of ``world_size`` GPUs whose states are there, in fp32: weights, and of what is trained both
    moments, the gradient and, if there is one, the average."""
    of_trained = MOMENTS + FP32 + (FP32 if work.averaged else 0)
    return -(-(FP32 * work.params + of_trained * work.trained) // world_size)


def _gradients(
    work: Workload, stage: int, size: int, trained: int, accumulation: int, bucket: int, live: int, *, alone: bool
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(gradients, buffers) while activations are largest, and in the optimiser's step.

    ``trained``: what of the trained parameters this device updates. As DeepSpeed 0.19 does it: stage 0 copies the
    gradients together to average them; stages 1 and 2 copy this device's share together for the optimiser; stage 3
    keeps its share and its buffer from step to step, and gathers ``live`` weights through a buffer as large.
    """
    accumulates = accumulation > 1
    copies = min(bucket, work.trained) * size
    if stage == 0:
        whole = size * work.trained
        return (whole if accumulates else 0, 0), (whole, 0 if alone else min(whole, size * STAGE0_COPY))
    if stage in (1, 2):
        own = size * trained
        return (own if accumulates else 0, copies), (own, FP32 * trained + (own if size < FP32 else 0))
    gathered = size * min(live, work.params)
    held = size * trained
    return (held, copies + gathered), (
        held,
        copies + (FP32 * trained if size < FP32 else 0) + size * work.largest_block,
    )


def block_bytes(arch: Architecture, tokens: int, precision: str) -> int:
    """Bytes autograd keeps of one image in one block.

    Per token, in widths D: two residual inputs (2) and two LayerNorm outputs (2), the fused q, k, v (3), q and k once
    more where RoPE or a norm has changed them (2), the attention output and its transposed copy (2), and the two branch
    outputs that LayerScale multiplies; in MLP widths I the inputs of the activation and of the second layer (2), with
    SwiGLU the gate, the value, the activated gate and their product (4). Attention scores are not kept, a fused kernel
    recomputes them from one fp32 sum per head; compiled blocks that keep them keep as much less of the rest. Norms
    keep a mean and a deviation.
    """
    changed = arch.pos_embed == "rope" or arch.qk_norm != "none"
    widths = 7 + (2 if changed else 0) + (2 if arch.layer_scale else 0)
    hiddens = 4 if arch.mlp == "swiglu" else 2
    moments = 4 + (4 * arch.num_heads if arch.qk_norm != "none" else 0)
    elements = widths * arch.embed_dim + hiddens * arch.mlp_hidden + moments
    _, product, residual = ELEMENT[precision]
    return tokens * (product * elements + residual * 2 * arch.embed_dim + FP32 * arch.num_heads)


def gpu_bytes(arch: Architecture, image_size: int, precision: str, *, idle_tokens: int, compiled: bool) -> OnGpu:
    """What a GPU keeps of one image besides ``backbone_bytes``; ``compiled``: below stage 3.

    Compiled blocks recompute two tensors of width D that eager ones keep, and their backward pass needs nothing besides
    what is kept. Under autocast CUDA computes norms in fp32: eager blocks keep q and k in fp32 besides, as the QK-norm
    takes them, and stage 3's linear layers the outputs of the LayerNorms in fp32. Found from the peaks of nine
    trainings on an H200 (docs/gpu.md).
    """
    weight, product, _ = ELEMENT[precision]
    tokens = ladder.num_tokens(arch, image_size) - idle_tokens
    width_of_all = arch.depth * tokens * arch.embed_dim
    eager = 2 * FP32 * width_of_all if product < weight and arch.qk_norm != "none" else 0
    at_stage_3 = eager + (2 * (FP32 - product) * width_of_all if product < weight else 0)
    if compiled:
        return OnGpu(-2 * product * width_of_all - working_bytes(arch, tokens, precision), at_stage_3)
    return OnGpu(eager, at_stage_3)


def working_bytes(arch: Architecture, tokens: int, precision: str) -> int:
    """Bytes of one image that the backward pass of a block needs: an MLP's gradients of both its inner layers."""
    return ELEMENT[precision].product * tokens * (2 * arch.mlp_hidden + 2 * arch.embed_dim)


def backbone_bytes(
    arch: Architecture, image_size: int, precision: str, *, idle_tokens: int = 0
) -> tuple[int, int, int]:
    """(kept, kept with checkpointing, working) bytes of one image in the backbone, without what a head keeps.

    ``idle_tokens`` stay out of the blocks.

    Around the blocks lie the image as it was loaded (fp32) and as it is computed with, and the final LayerNorm's
    input. Checkpointing keeps the input of every block, and the one block being recomputed.
    """
    _, product, residual = ELEMENT[precision]
    tokens = ladder.num_tokens(arch, image_size) - idle_tokens
    pixels = arch.in_chans * image_size**2 * (FP32 + (product if product < FP32 else 0))
    inputs = residual * tokens * arch.embed_dim
    stem, block = pixels + inputs, block_bytes(arch, tokens, precision)
    return (
        stem + arch.depth * block,
        stem + arch.depth * inputs + block,
        working_bytes(arch, tokens, precision),
    )
