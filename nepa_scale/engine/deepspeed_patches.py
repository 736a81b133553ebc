"""Patches of DeepSpeed 0.19 that skip work without effect in every step, on the engine of one run.

Measured by ``benchmarks/zero_overhead.py``. Each patch replaces a method of one object; tests compare the
results with those of an engine without patches.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime import torch_autocast
from torch import Tensor


def forget_autocast() -> None:
    """Reset what DeepSpeed keeps for the whole process: once a training has used autocast, all later ones would
    communicate in the number format of their parameters, whatever their files say."""
    torch_autocast.TORCH_AUTOCAST_INITIALIZED = False


def apply_patches(engine: Any, optimizer: Any, *, stage: int, world_size: int) -> None:
    """Patch ``engine`` and its ``optimizer`` as far as the ZeRO ``stage`` and the number of ranks allow."""
    if stage == 0 and world_size == 1:
        # It would copy all gradients into a flat buffer, average that with nobody, and copy it back.
        engine.enable_backward_allreduce = False
    if stage in (1, 2) and not optimizer.cpu_offload:
        optimizer.scaled_global_norm = MethodType(_global_norm, optimizer)
        optimizer.check_overflow = MethodType(_leave_to_the_norm, optimizer)
        if world_size == 1 and not optimizer.contiguous_gradients:
            optimizer.buffered_reduce_fallback = MethodType(_reduce_nothing, optimizer)
    if stage == 3:
        norms = optimizer._get_norm_groups
        optimizer._get_norm_groups = lambda: [norm.cpu() for norm in norms()]


def _global_norm(optimizer: Any) -> Tensor:
    """The norm of the averaged gradient, of which each rank has a shard, summed in fp32.

    DeepSpeed converts every tensor to fp64 first, and has the ranks wait for one another once for each group. NaN and
    infinity come through, and DeepSpeed then does not take the step. The norm is on the CPU, as at stage 3: DeepSpeed
    looks at it several times, and then the host waits for the device only here, before the optimiser.
    """
    shards = [shard for group in optimizer.averaged_gradients.values() for shard in group]
    norms = torch.stack([torch.linalg.vector_norm(shard, dtype=torch.float32) for shard in shards])
    square = norms.square().sum()
    dist.all_reduce(square, group=optimizer.dp_process_group)
    return square.sqrt().cpu()


def _leave_to_the_norm(_optimizer: Any, *_arguments: Any, **_keywords: Any) -> None:
    """DeepSpeed would look in all gradients for what is not finite; it looks at their norm next, which tells it."""


def _reduce_nothing(_optimizer: Any, *_arguments: Any, **_keywords: Any) -> None:
    """One rank's gradients are their own average."""
