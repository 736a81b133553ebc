"""Parameter groups, weight-decay rules, layer-wise learning-rate decay and the schedule."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from nepa_scale.config import TaskConfig

ADAM_EPS = 1e-8


def build_optimizer(module: nn.Module, section: TaskConfig, *, layer_decay: float = 1.0) -> torch.optim.AdamW:
    """AdamW over ``module``'s trainable parameters with the rules of this file."""
    groups = parameter_groups(module, lr=section.peak_lr, weight_decay=section.weight_decay, layer_decay=layer_decay)
    betas = (section.beta1, section.beta2)
    return torch.optim.AdamW(groups, lr=section.peak_lr, betas=betas, eps=ADAM_EPS, fused=True)


def parameter_groups(
    module: nn.Module, *, lr: float, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Group parameters by learning rate and weight decay.

    Weight decay is left off tensors of one dimension: biases, norms, query/key norms and LayerScale. The class
    token and the patch convolution are decayed (authors' code).
    The learning rate of a tensor ``s`` steps below the last block is ``lr * layer_decay ** s``: block i of N has
    s = N - 1 - i, patch embedding and class token s = N, everything after the blocks s = 0 (authors' code).
    """
    depth = 1 + max((_block_index(name) for name, _ in module.named_parameters()), default=-1)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        steps_below = _steps_below_last_block(name, depth)
        decayed = parameter.ndim > 1
        fresh = {
            "params": [],
            "lr": lr * layer_decay**steps_below,
            "weight_decay": weight_decay if decayed else 0.0,
        }
        key = (steps_below if layer_decay != 1.0 else 0, decayed)
        groups.setdefault(key, fresh)["params"].append(parameter)
    return list(groups.values())


def warmup_cosine(total_steps: int, warmup_fraction: float) -> Callable[[int], float]:
    """Learning-rate multiplier of each step: linear from 0 over the warm-up, then half a cosine to 0 (paper §4.1)."""
    warmup_steps = round(warmup_fraction * total_steps)

    def multiplier(step: int) -> float:
        if step < warmup_steps:
            return step / warmup_steps
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))

    return multiplier


def _block_index(name: str) -> int:
    match = re.search(r"(?:^|\.)blocks\.(\d+)\.", name)
    return int(match.group(1)) if match else -1


def _steps_below_last_block(name: str, depth: int) -> int:
    block = _block_index(name)
    if block >= 0:
        return depth - 1 - block
    return depth if re.search(r"(?:^|\.)(patch_embed\.|cls_token$)", name) else 0
