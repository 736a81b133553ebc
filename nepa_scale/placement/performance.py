"""How long a training step takes on GPUs: a model with one set of constants, held against published figures.

A step computes, communicates and updates: its micro-batches' FLOPs at a share of the device's peak, the part of ZeRO's
collectives that computing does not hide, what DeepSpeed's hooks cost, and the optimiser's pass over its states, under
Muon with the products that orthogonalise its matrices. Images that come more slowly than this decide alone. Free of
torch; docs/scaling.md has the formulas and the comparison.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from nepa_scale.config.schema import RunConfig
from nepa_scale.placement.costs import compiles_on_gpus, orthogonalising_flops, task_cost, workload
from nepa_scale.placement.devices import Placement
from nepa_scale.placement.ds_config import offloads
from nepa_scale.placement.gpus import Links, linked_devices, stated_flops, stated_links
from nepa_scale.placement.memory import ELEMENT, FP32
from nepa_scale.utils.errors import UserError, nearest

#: Share of an H100's peak that fused or compiled blocks of endless width and batch reach; the width at which it is half
#: of that; and the part left where blocks run operation by operation. Published ViT trainings reach 14 to 29 %.
EFFICIENCY, HALF_WIDTH, EAGER = 0.31, 150, 0.6
#: A device with more memory bandwidth for each FLOP comes nearer to its peak, by this power; relative to an H100.
BALANCE, H100_BALANCE = 0.5, 989.4e12 / 3.35e12
#: Tokens that take as long as starting a forward and backward pass: a pass of few tokens leaves the device idle.
IDLE_TOKENS = 512
#: Share of a link's stated speed that collectives reach.
LINK_SHARE = 0.7
#: Seconds until a collective begins, for each doubling of the devices in a node, and of the nodes.
LATENCY_INSIDE, LATENCY_BETWEEN = 5e-6, 15e-6
#: Seconds that a hook in Python takes for each tensor: of every gradient at stages 1 and 2, of every gathering at 3.
HOOK = 30e-6
#: Seconds of Python around a step, however little it computes: an estimate. Without it the smallest models would seem
#: to use any number of devices well.
STEP = 2e-3
#: Bytes that AdamW reads and writes for each parameter: fp32 weight and moments twice, gradient once.
ADAMW_BYTES = 28
#: Tensors of a block: four products and two norms with biases, two LayerScales.
TENSORS_OF_A_BLOCK = 14
#: Bytes per second to and from the host's memory that a GPU gets while all of its node offload: an estimate.
BUS = 6e9
#: Elements of one collective: DeepSpeed's buckets as ``ds_config`` sets them.
BUCKET = 2**23
BACKWARD = 2 / 3  # of a step's computing


@dataclass(frozen=True)
class Work:
    """What a training is, whatever it runs on. ``flops``: executed on one image, forward and backward, and those of the
    recomputed part in ``again``; ``tensors``: parameters by their number of tensors. Of Muon, ``orthogonalising``:
    FLOPs of a step on each device; ``matrices``: parameters that it updates. ``compiled``: whether its blocks are,
    below stage 3."""

    flops: float
    again: float
    width: int
    tokens: int
    params: int
    trained: int
    tensors: int
    orthogonalising: int = 0
    matrices: int = 0
    compiled: bool = True


@dataclass(frozen=True)
class Device:
    """One kind of GPU: its stated peaks by precision, in FLOP/s, and links."""

    name: str
    flops: dict[str, float]
    links: Links


@dataclass(frozen=True)
class Way:
    """How a step is laid out.

    ``overlap``: the share of backward computing beside which gradients travel, and of all computing for stage 3's
    weights: 0 under our DeepSpeed files (``overlap_comm`` false), more under PyTorch's DDP. ``hooks``: whether Python
    is called for each gradient. ``gradient_bytes``: of one element while it travels.
    """

    devices: int
    micro_batch: int
    accumulation: int = 1
    stage: int = 0
    precision: str = "bf16"
    compiled: bool = True
    checkpointing: bool = False
    offload: bool = False
    overlap: float = 0.0
    hooks: bool = True
    gradient_bytes: int = 2


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step: ``communication`` is what computing does not hide of it, ``data`` what images take by
    themselves, beside the rest."""

    compute: float
    communication: float
    hooks: float
    optimiser: float
    data: float

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return max(self.compute + self.communication + self.hooks + self.optimiser, self.data)

    @property
    def bound(self) -> str:
        """What takes most of it."""
        parts = {name: getattr(self, name) for name in ("compute", "communication", "hooks", "optimiser")}
        return "data" if self.data >= self.total else max(parts, key=lambda name: parts[name])


def device_called(name: str) -> Device:
    """The GPU called ``name``. Raises ``UserError`` where its peak or its links are not known."""
    links = stated_links(name)
    if links is None:
        known = linked_devices()
        raise UserError(
            f"device={name}: its links are not known{nearest(name.lower(), known)} (known are {', '.join(known)})"
        )
    peaks = {precision: stated_flops(name, precision, tf32=True) for precision in ELEMENT}
    return Device(name, {precision: peak for precision, peak in peaks.items() if peak is not None}, links)


def work_of(config: RunConfig, task: str) -> Work:
    """What training ``task`` is. Raises ``DataError`` when its data set is neither there nor stated."""
    arch, held = config.architecture(task), workload(config, task)
    plain, again = (task_cost(config, task, activation_checkpointing=twice) for twice in (False, True))
    return Work(
        flops=plain.flops_executed / plain.images_seen,
        again=(again.flops_executed - plain.flops_executed) / plain.images_seen,
        width=arch.embed_dim,
        tokens=held.tokens,
        params=held.params,
        trained=held.trained,
        tensors=TENSORS_OF_A_BLOCK * arch.depth,
        orthogonalising=orthogonalising_flops(config, task),
        matrices=held.matrices,
        compiled=compiles_on_gpus(config, task),
    )


def way_of(config: RunConfig, work: Work, way: Way) -> Way:
    """``way`` as this engine goes it with ``work``: stage 3 is not compiled; gradients travel in the weights' number
    format, after the backward pass; stages 1 to 3 have hooks."""
    precision = config.engine.precision
    return dataclasses.replace(
        way,
        precision=precision,
        compiled=work.compiled and way.stage < 3,
        hooks=way.stage > 0,
        gradient_bytes=ELEMENT[precision].weight,
    )


def task_step(config: RunConfig, task: str, placement: Placement, device: Device) -> StepTime:
    """The time of one step of ``task`` as it is placed."""
    return placed_step(config, work_of(config, task), placement, device)


def placed_step(
    config: RunConfig, work: Work, placement: Placement, device: Device, images_per_second: float | None = None
) -> StepTime:
    """The time of one step of ``work``, a task of ``config``, as it is placed; the rest as of ``step_time``."""
    way = Way(
        devices=placement.world_size,
        micro_batch=placement.micro_batch_size,
        accumulation=placement.accumulation,
        stage=placement.zero_stage,
        checkpointing=placement.activation_checkpointing,
        offload=offloads(placement.ds_config),
    )
    return step_time(work, way_of(config, work, way), device, images_per_second)


def efficiency(work: Work, way: Way, device: Device) -> float:
    """The share of its peak that the device reaches while it computes a forward and backward pass."""
    passes = 1 + IDLE_TOKENS / (way.micro_batch * work.tokens)
    return min(_of_fused_products(work, way.precision, device) * (1 if way.compiled else EAGER) / passes, 0.9)


def _of_fused_products(work: Work, precision: str, device: Device) -> float:
    """The share of its peak that the device reaches in compiled blocks, however many images they have."""
    balance = _peak(device, precision) / device.links.memory
    if precision == "fp32":  # twice the bytes for each number, at a fraction of the operations
        balance *= 2
    return EFFICIENCY * work.width / (work.width + HALF_WIDTH) * (H100_BALANCE / balance) ** BALANCE


def step_time(work: Work, way: Way, device: Device, images_per_second: float | None = None) -> StepTime:
    """The time of one step of ``way``. ``images_per_second``: what one device's loaders deliver; None = enough."""
    images = way.micro_batch * way.accumulation
    flops = (work.flops + (work.again if way.checkpointing else 0)) * images
    compute = flops / (_peak(device, way.precision) * efficiency(work, way, device))
    return StepTime(
        compute=compute,
        communication=_exposed(work, way, device, compute),
        hooks=_hooks(work, way),
        optimiser=_optimiser(work, way, device),
        data=0.0 if images_per_second is None else images / images_per_second,
    )


def _optimiser(work: Work, way: Way, device: Device) -> float:
    """Seconds of the pass over weights, gradients and moments, which stages from 1 share out; and of Muon's
    orthogonalising, which every device does for all matrices in fp32 (TF32), as fast as products in compiled blocks."""
    shared = way.devices if way.stage else 1
    states = ADAMW_BYTES * work.trained / shared / (BUS if way.offload else device.links.memory)
    if not work.orthogonalising:
        return states
    fraction = min(_of_fused_products(work, "fp32", device), 0.9)
    return states + work.orthogonalising / (_peak(device, "fp32") * fraction)


def _exposed(work: Work, way: Way, device: Device, compute: float) -> float:
    """Seconds of collectives that computing does not hide.

    Gradients are averaged once a step (stages 0, 1) or with each micro-batch (2, 3): reduce-scatter and all-gather at
    stage 0; from stage 1 the gathering is that of updated weights. Stage 3 gathers the weights for each forward and
    each backward pass instead, and once more where blocks are recomputed. Offloaded ones come over the bus first, and
    gradients go back over it. From stage 1 Muon's matrices are summed besides, in fp32.
    """
    element, links = ELEMENT[way.precision].weight, device.links
    passes = way.accumulation * (3 if way.checkpointing else 2)
    over_bus = way.offload * element * work.params / way.devices * (passes + way.accumulation) / BUS
    if way.devices == 1:
        return over_bus
    gradients = _collective(way.gradient_bytes * work.trained, work.trained, way.devices, links)
    weights = _collective(element * work.params, work.params, way.devices, links)
    rounds = way.accumulation if way.stage >= 2 else 1
    hidden = way.overlap * BACKWARD * compute * rounds / way.accumulation
    exposed = max(0.0, gradients * rounds * (2 if way.stage == 0 else 1) - hidden)
    if way.stage in (1, 2):
        exposed += weights
    if way.stage and work.matrices:
        exposed += 2 * _collective(FP32 * work.matrices, work.matrices, way.devices, links)
    if way.stage == 3:
        exposed += max(0.0, weights * passes - way.overlap * compute)
    return exposed + over_bus


def _collective(size: float, elements: int, devices: int, links: Links) -> float:
    """Seconds of one reduce-scatter or all-gather of ``size`` bytes: first inside the nodes, then between them."""
    inside = min(devices, links.per_node)
    nodes = -(-devices // links.per_node)
    calls = max(1, -(-elements // BUCKET))
    latency = LATENCY_INSIDE * math.log2(inside) + LATENCY_BETWEEN * math.log2(nodes)
    moved = size * (inside - 1) / inside / links.inside + size / inside * (nodes - 1) / nodes / links.between
    return calls * latency + moved / LINK_SHARE


def _hooks(work: Work, way: Way) -> float:
    """Seconds of Python around the step, and around the tensors' gradients or their gathering."""
    if not way.hooks or (way.devices == 1 and way.stage < 3):
        return STEP
    times = {0: 0, 1: 1, 2: 1, 3: 4 if way.checkpointing else 3}[way.stage]
    return STEP + HOOK * work.tensors * times * way.accumulation


def _peak(device: Device, precision: str) -> float:
    if precision not in device.flops:
        raise UserError(f"device={device.name}: no stated peak in {precision}")
    return device.flops[precision]
