"""Chooses a task's placement: ZeRO stage, micro-batch, accumulation, activation checkpointing. Free of torch.

Of all placements that fit into a device's memory the planner takes the one that should be fastest. What the user states
is kept and only checked. A placement never changes what is computed, except for rounding.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from nepa_scale.config.registry import spec
from nepa_scale.config.schema import RunConfig
from nepa_scale.config.validate import divisors
from nepa_scale.placement import ds_config, memory, performance
from nepa_scale.placement.costs import workload
from nepa_scale.placement.devices import FILL, DeviceMemory, Placement, gib
from nepa_scale.placement.gpus import stated_links
from nepa_scale.placement.memory import MemoryEstimate, Workload

#: Time of a step of CPU ranks beside plain data parallelism, as measured (docs/placement.md): DeepSpeed copies
#: gradients together at stages 1 and 2, and gathers every weight twice at stage 3. GPUs have the performance model.
TIMES = {"zero0": 1.0, "zero1": 1.1, "zero2": 1.15, "zero3": 2.0}
RECOMPUTING = 4 / 3  # one more forward pass
#: What a GPU counts as that the performance model does not know.
TYPICAL_GPU = "h100"


def place(config: RunConfig, task: str, world_size: int, device: DeviceMemory) -> Placement:
    """The fastest placement of ``task`` on ``world_size`` devices that fits; the smallest where none does.

    Raises ``ConfigError`` when the DeepSpeed file cannot be read, ``DataError`` when the data set cannot.
    """
    work = workload(config, task)
    choices = _choices(config, task, world_size, device)
    placements = [_with_memory(config, task, work, choice, world_size, device) for choice in choices]
    ordered = sorted(placements, key=_times(config, task, work, device))
    fitting = next((placement for placement in ordered if placement.fits), None)
    chosen = fitting or min(ordered, key=lambda placement: (placement.problem is not None, placement.memory.total))
    return replace(chosen, reasons=tuple(_reasons(config, chosen, ordered, device)))


def efficiency(config: RunConfig, task: str, few: Placement, many: Placement, device: DeviceMemory) -> float:
    """Parallel efficiency: the part of its speed on ``few`` devices that a device keeps on ``many``, by the times that
    placements are chosen by. Those of CPU ranks leave out what averaging gradients takes."""
    time = _times(config, task, workload(config, task), device)
    devices = many.world_size / few.world_size if device.on_gpu else 1  # on CPU ranks times are of the same images
    return time(few) / (time(many) * devices)


def describe(placement: Placement, device: DeviceMemory) -> list[str]:
    """What a person should know of a placement, a line each."""
    estimate = placement.memory
    there = f" of {gib(device.size)}" if device.size is not None else ""
    accumulated = f" x {placement.accumulation} accumulated" if placement.accumulation > 1 else ""
    recomputing = ", activation checkpointing" if placement.activation_checkpointing else ""
    return [
        f"devices      {placement.world_size}, ZeRO stage {placement.zero_stage},"
        f" micro-batch {placement.micro_batch_size}{accumulated}{recomputing}",
        f"memory       {gib(estimate.total)} per device{there} (estimate; {device.source})",
        *(f"             {reason}" for reason in placement.reasons),
    ]


@dataclass(frozen=True)
class _Choice:
    ds_config: str
    micro_batch_size: int
    activation_checkpointing: bool


def _choices(config: RunConfig, task: str, world_size: int, device: DeviceMemory) -> Iterator[_Choice]:
    """Everything the user leaves open."""
    engine, section = config.engine, config.task_config(task)
    files = [engine.ds_config] if engine.ds_config != "auto" else _files(config, task, world_size, device)
    sizes = [config.micro_batch_size]
    if config.micro_batch_size is None:
        sizes = _sizes(max(1, section.batch_size // world_size), even=section.mixes_pairs)
    recomputing = [engine.activation_checkpointing]
    if spec(task).frozen_backbone:
        recomputing = [False]
    elif engine.activation_checkpointing is None:
        recomputing = [False, True]
    yield from itertools.starmap(_Choice, itertools.product(files, sizes, recomputing))


def _files(config: RunConfig, task: str, world_size: int, device: DeviceMemory) -> list[str]:
    """The shipped files that can help. DeepSpeed's 16-bit stage 0 takes an optimiser step while initialising; Muon's
    states stay on the device."""
    lowest = ["zero1"] if config.engine.precision in ds_config.SIXTEEN_BIT else ["zero0"]
    if world_size > 1:
        lowest = [name for name in ("zero0", "zero1", "zero2", "zero3") if name >= lowest[0]]
    offloads = device.on_gpu and config.task_config(task).optimizer != "muon"
    return [*lowest, "zero3_offload"] if offloads else lowest


def _sizes(images: int, *, even: bool) -> list[int | None]:
    """The micro-batches that cut the ``images`` of a device into equal parts; all of them where none is even."""
    return [size for size in divisors(images) if size % 2 == 0 or not even] or [images]


def _times(config: RunConfig, task: str, work: Workload, device: DeviceMemory) -> Callable[[Placement], float]:
    """What gives the time of a step by which placements are compared: seconds on GPUs; on CPU ranks, times of the same
    images without ZeRO and without idle time."""
    if not device.on_gpu:
        return functools.partial(_time_on_cpus, work)
    known = device.gpu is not None and stated_links(device.gpu) is not None
    gpu = performance.device_called(device.gpu if known and device.gpu else TYPICAL_GPU)
    what = performance.work_of(config, task)
    return lambda placement: performance.placed_step(config, what, placement, gpu).total


def _time_on_cpus(work: Workload, placement: Placement) -> float:
    tokens = placement.micro_batch_size * work.tokens
    time = TIMES[f"zero{placement.zero_stage}"] * (1 + performance.IDLE_TOKENS / tokens)
    return time * (RECOMPUTING if placement.activation_checkpointing else 1)


def _with_memory(
    config: RunConfig, task: str, work: Workload, choice: _Choice, world_size: int, device: DeviceMemory
) -> Placement:
    """A choice with its memory."""
    of_device = max(1, config.task_config(task).batch_size // world_size)
    stage, offload = ds_config.zero_stage(choice.ds_config), ds_config.offloads(choice.ds_config)
    to_host = device.on_gpu and ds_config.offloads_to_host(choice.ds_config)
    blank = memory.MemoryEstimate(0, 0, 0, 0, 0, 0, 0, "")
    placement = Placement(
        world_size=world_size,
        ds_config=choice.ds_config,
        zero_stage=stage,
        micro_batch_size=choice.micro_batch_size,
        accumulation=max(1, of_device // choice.micro_batch_size),
        activation_checkpointing=choice.activation_checkpointing,
        num_params=work.params,
        largest_tensor=work.largest_tensor,
        largest_block=work.largest_block,
        memory=blank,
        available=device.size,
        reasons=(),
        host_memory=memory.offloaded_bytes(work, world_size) if to_host else 0,
        host_available=device.host,
    )
    sizes = ds_config.communication_sizes(placement)
    estimate = memory.estimate(
        work,
        micro_batch_size=placement.micro_batch_size,
        accumulation=placement.accumulation,
        precision=config.engine.precision,
        zero_stage=stage,
        world_size=world_size,
        bucket=sizes["reduce_bucket_size"],
        live=sizes["stage3_max_live_parameters"],
        checkpointing=placement.activation_checkpointing,
        offload=offload,
        on_gpu=device.on_gpu,
    )
    return replace(placement, memory=estimate)


def _reasons(config: RunConfig, chosen: Placement, ordered: list[Placement], device: DeviceMemory) -> Iterator[str]:
    """Why each part of a placement is as it is."""
    engine, room = config.engine, "" if device.size is None else f", more than {FILL:.0%} of {gib(device.size)}"
    offloading = " with offloading" if ds_config.offloads(chosen.ds_config) else ""

    def instead(**change: object) -> MemoryEstimate | None:
        """The memory of the placement that differs from the chosen one in ``change`` alone."""
        choice = {key: getattr(chosen, key) for key in ("ds_config", "micro_batch_size", "activation_checkpointing")}
        choice |= change
        return next((p.memory for p in ordered if all(getattr(p, key) == value for key, value in choice.items())), None)

    if engine.ds_config != "auto":
        yield f"ZeRO stage {chosen.zero_stage}: engine.ds_config={engine.ds_config}"
    else:
        lower = sorted({p.ds_config for p in ordered if p.ds_config < chosen.ds_config})
        saved = instead(ds_config=lower[-1]) if lower else None
        if saved is not None:
            yield f"ZeRO stage {chosen.zero_stage}{offloading}: {lower[-1]} would need {gib(saved.total)}{room}"
        elif engine.precision in ds_config.SIXTEEN_BIT:
            yield f"ZeRO stage 1: the lowest that DeepSpeed trains rightly in {engine.precision}"
        elif chosen.fits:
            yield "ZeRO stage 0: it is the fastest, and its memory is there"
    larger = min((p.micro_batch_size for p in ordered if p.micro_batch_size > chosen.micro_batch_size), default=None)
    if config.micro_batch_size is not None:
        yield f"micro-batch {chosen.micro_batch_size}: micro_batch_size is given"
    elif larger is None:
        yield f"micro-batch {chosen.micro_batch_size}: a device's whole share of the batch"
    elif (more := instead(micro_batch_size=larger)) is not None:
        yield f"micro-batch {chosen.micro_batch_size}: {larger} would need {gib(more.total)}{room}"
    if engine.activation_checkpointing and chosen.activation_checkpointing:
        yield "activation checkpointing: engine.activation_checkpointing=true"
    elif chosen.activation_checkpointing and (kept := instead(activation_checkpointing=False)) is not None:
        yield f"activation checkpointing: without it {gib(kept.total)} would be needed{room}"
    if not chosen.fits:
        yield f"this is the least that training takes{room}"
