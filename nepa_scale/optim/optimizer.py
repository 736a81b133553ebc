"""Parameter groups, weight-decay rules, and the learning rate of every group at every step."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nepa_scale.config.learning_rate import WidthScaling, decay_start, warmup_steps
from nepa_scale.config.task_settings import FinetuneConfig, TaskConfig
from nepa_scale.optim.muon import IS_MUONS, Muon

ADAM_EPS = 1e-8

Schedule = Callable[[int], float]

#: What is left of the peak rate once a part of the fall (0 to 1) is done.
FALLS: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "poly": lambda done: 1 - done,
    "wsd": lambda done: 1 - math.sqrt(done),
}


@dataclass(frozen=True)
class LayerDecay:
    """How much more slowly the lower layers learn, over a training that starts from pre-trained weights.

    A tensor ``s`` steps below the last block has its rate multiplied by d ** s, where d goes from ``start`` to
    ``end`` (None: stays) along a straight line (paper, appendix D) or half a cosine (authors' ``llrd_cosine``).
    ``own_warmup``: every group has a warm-up of its own length (authors' ``llrd_cosine_warmup``).
    """

    start: float = 1.0
    end: float | None = None
    ramp: str = "linear"
    own_warmup: bool = False

    @classmethod
    def of(cls, section: FinetuneConfig) -> LayerDecay:
        """What the settings of a fine-tuning task say."""
        return cls(
            section.layer_decay, section.layer_decay_end, section.layer_decay_ramp, own_warmup=section.layer_warmup
        )

    def factor(self, steps_below: int, progress: float) -> float:
        """The multiplier of a tensor's rate once ``progress`` of the steps (0 to 1) is done."""
        if self.end is None:
            return self.start**steps_below
        done = progress if self.ramp == "linear" else 0.5 * (1 - math.cos(math.pi * progress))
        return float((self.start + (self.end - self.start) * done) ** steps_below)


NO_LAYER_DECAY = LayerDecay()


def build_optimizer(
    module: nn.Module,
    section: TaskConfig,
    *,
    peak_lr: float | None = None,
    layered: bool = False,
    head_lr: float | None = None,
    scaling: WidthScaling | None = None,
) -> torch.optim.AdamW:
    """AdamW over ``module``'s trainable parameters with the rules of this file, or Muon where ``section`` says so;
    ``peak_lr``: None is the section's."""
    peak = section.peak_lr if peak_lr is None else peak_lr
    groups = parameter_groups(
        module, lr=peak, weight_decay=section.weight_decay, layered=layered, head_lr=head_lr, scaling=scaling
    )
    adamw: dict[str, Any] = {"lr": peak, "betas": (section.beta1, section.beta2), "eps": ADAM_EPS, "fused": True}
    if section.optimizer == "muon":
        return Muon(with_matrices_apart(groups, module), momentum=section.momentum, **adamw)
    return torch.optim.AdamW(groups, **adamw)


def with_matrices_apart(groups: list[dict[str, Any]], module: nn.Module) -> list[dict[str, Any]]:
    """Cut each group in two, one of the blocks' matrices, which Muon updates, and one of the rest; none is empty."""
    matrices = {
        parameter
        for name, parameter in module.named_parameters()
        if _block_index(name) >= 0 and len(whole_shape(parameter)) == 2
    }
    parts = [
        {**group, "params": [p for p in group["params"] if (p in matrices) is is_muons], IS_MUONS: is_muons}
        for group in groups
        for is_muons in (False, True)
    ]
    return [group for group in parts if group["params"]]


def parameter_groups(
    module: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    layered: bool = False,
    head_lr: float | None = None,
    scaling: WidthScaling | None = None,
) -> list[dict[str, Any]]:
    """Group parameters by peak learning rate, weight decay and, if ``layered``, by their place in the backbone.

    Weight decay is left off tensors of one dimension: biases, norms, query/key norms and LayerScale. The class
    token and the patch convolution are decayed (authors' code), and so is a table of positions.
    A group's ``steps_below`` counts from the last block: block i of N has N - 1 - i; patch embedding, class token
    and positions have N, everything after the blocks 0 (authors' code). ``schedule`` makes a factor of it.
    With ``head_lr`` a classifier's last layer and the backbone's final norm have that peak rate (authors' code).
    With ``scaling`` each kind of tensor has its own rate. AdamW decays by rate x weight decay; that product stays as
    stated, or the wider a model, the less its matrices would be decayed.
    """
    depth = 1 + max((_block_index(name) for name, _ in module.named_parameters()), default=-1)
    groups: dict[tuple[int, bool, float], dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        steps_below = _steps_below_last_block(name, depth) if layered else 0
        peak = head_lr if head_lr is not None and HEAD.match(name) else lr
        factor = 1.0 if scaling is None else scaling.rate(name)
        decayed = len(whole_shape(parameter)) > 1
        fresh = {
            "params": [],
            "lr": peak * factor,
            "weight_decay": weight_decay / factor if decayed else 0.0,
            "steps_below": steps_below,
        }
        groups.setdefault((steps_below, decayed, peak * factor), fresh)["params"].append(parameter)
    return list(groups.values())


def whole_shape(parameter: nn.Parameter) -> torch.Size:
    """The shape of a parameter, also of one that ZeRO-3 has partitioned: that is an empty tensor between its uses."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def num_params(module: nn.Module) -> int:
    """Elements of all parameters of ``module``, partitioned or not."""
    return sum(whole_shape(parameter).numel() for parameter in module.parameters())


def group_schedules(
    groups: list[dict[str, Any]], section: TaskConfig, total_steps: int, layer_decay: LayerDecay
) -> list[Schedule]:
    """One schedule for each group of an optimiser, in their order; groups that name no place count as the last."""
    return [
        schedule(
            total_steps,
            section.warmup,
            fall=section.schedule,
            decay=section.decay,
            layer_decay=layer_decay,
            steps_below=group.get("steps_below", 0),
        )
        for group in groups
    ]


def schedule(
    total_steps: int,
    warmup: float,
    *,
    fall: str = "cosine",
    decay: float = 0.2,
    layer_decay: LayerDecay = NO_LAYER_DECAY,
    steps_below: int = 0,
) -> Schedule:
    """The multiplier of a group's peak rate at each step: linear from 0 over the warm-up, then down to 0 at the end.

    ``warmup`` is a fraction of the steps, rounded up to whole ones. ``fall``: half a cosine (paper §4.1); ``poly``, a
    straight line; or ``wsd`` (warm-up, stable, decay; arXiv 2405.18392), which stays at the peak until the last
    ``decay`` of the steps and then falls as 1 - sqrt(x), x the part of those done: that paper's best shape.
    """
    rising = _rising_steps(total_steps, warmup, layer_decay, steps_below)
    fall_start = decay_start(total_steps, rising, decay) if fall == "wsd" else rising

    def multiplier(step: int) -> float:
        if step >= total_steps:
            return 0.0
        factor = layer_decay.factor(steps_below, step / total_steps)
        if step < rising:
            return factor * step / rising
        progress = max(0, step - fall_start) / (total_steps - fall_start)
        return factor * FALLS[fall](progress)

    return multiplier


def _rising_steps(total_steps: int, warmup: float, layer_decay: LayerDecay, steps_below: int) -> int:
    """The group's warm-up. With one of its own, a group that learns at full rate warms up in a single step.

    The lower its rate, the closer a group's warm-up comes to the whole of it.
    """
    longest = warmup_steps(total_steps, warmup)
    if not layer_decay.own_warmup:
        return longest
    own = longest - round(longest * layer_decay.factor(steps_below, 0.0))
    return min(max(own, 1), total_steps)


HEAD = re.compile(r"(?:head\.|(?:backbone\.)?norm\.)(?:weight|bias)$")


def _block_index(name: str) -> int:
    match = re.search(r"(?:^|\.)blocks\.(\d+)\.", name)
    return int(match.group(1)) if match else -1


def _steps_below_last_block(name: str, depth: int) -> int:
    block = _block_index(name)
    if block >= 0:
        return depth - 1 - block
    return depth if re.search(r"(?:^|\.)(?:patch_embed\.|cls_token$|pos_embed$)", name) else 0
