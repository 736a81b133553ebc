"""Heads on frozen features, each trained at several learning rates at once, and the standardisation before them."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import AttentionPoolLatent
from torch import Tensor, nn

from nepa_scale.optim.optimizer import whole_shape
from nepa_scale.tasks.costs import RATE_FACTORS

LINEAR_LAST, LINEAR_MEAN, ATTENTIVE = "linear_last", "linear_mean", "attentive"
SMALLEST_SPREAD = 1e-5


class Standardise(nn.Module):
    """Features [..., D] -> mean 0 and standard deviation 1 in each channel, by figures measured beforehand.

    It stands where MAE (arXiv 2111.06377) and AIM (arXiv 2401.08541) have a BatchNorm without parameters, and
    does not depend on the batch, nor on how many devices share it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def settle(self, sums: Tensor) -> None:
        """Take mean and (biased) standard deviation from sums [3, D] of ``moments``.

        A channel that hardly varies stays small: dividing by its rounding noise would make a feature of that.
        """
        mean, second = sums[0] / sums[2], sums[1] / sums[2]
        floor = SMALLEST_SPREAD * second.sqrt() + torch.finfo(self.std.dtype).tiny
        self.mean.copy_(mean)
        self.std.copy_((second - mean.square()).clamp(min=0).sqrt().maximum(floor))

    def forward(self, features: Tensor) -> Tensor:
        """Standardised features in fp32, of the same shape."""
        return (features.float() - self.mean.float()) / self.std.float()


def moments(features: Tensor) -> Tensor:
    """Sum, sum of squares and count [3, D] of features [..., D], in fp64: the sums of two sets add up."""
    rows = features.flatten(0, -2).double()
    return torch.stack([rows.sum(0), rows.square().sum(0), torch.full_like(rows[0], len(rows))])


class Head(nn.Module):
    """One way of reading a layer: standardise, pool where asked for, then a linear layer; a copy for each rate.

    All copies start alike, with their linear layers at zero. Biases are trained as fast as weights.
    """

    def __init__(self, width: int, num_classes: int, pool: nn.Module | None = None) -> None:
        super().__init__()
        self.standardise = Standardise(width)
        linear = nn.Linear(width, num_classes)
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        first = nn.Sequential(OrderedDict(pool=nn.Identity() if pool is None else pool, linear=linear))
        self.rates = nn.ModuleDict({rate_name(factor): copy.deepcopy(first) for factor in RATE_FACTORS})

    def forward(self, features: Tensor) -> Tensor:
        """Class scores [R, B, C] in fp32, one set for each rate, of features [B, D], or [B, N, D] with a pool."""
        inputs = self.standardise(features).to(features.dtype)
        return torch.stack([rate(inputs).float() for rate in self.rates.values()])


def rate_name(factor: float) -> str:
    """The name of a rate in keys of weights, where a point divides: x0_1 for a tenth."""
    return f"x{factor:g}".replace(".", "_")


def layer_heads(width: int, num_classes: int, num_heads: int, *, attentive: bool) -> nn.ModuleDict:
    """The heads of one layer of width D, by name.

    The attentive one is AIM's (arXiv 2401.08541): one learned query attends to the patches with as many attention
    heads as a block has; keys and values are linear without bias, no projection and no MLP follow.
    """
    heads = {LINEAR_LAST: Head(width, num_classes), LINEAR_MEAN: Head(width, num_classes)}
    if attentive:
        pool = AttentionPoolLatent(width, out_features=0, num_heads=num_heads, qkv_bias=False, q_proj=False)
        heads[ATTENTIVE] = Head(width, num_classes, pool)
    return nn.ModuleDict(heads)


def view(name: str, tokens: Tensor) -> Tensor:
    """What the head ``name`` reads of the patch tokens [B, N, D]: the last one or the mean, both [B, D], or all."""
    if name == LINEAR_LAST:
        return tokens[:, -1]
    return tokens.mean(dim=1) if name == LINEAR_MEAN else tokens


def losses(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy [R, B] of scores [R, B, C] for labels [B]."""
    rates, batch, _ = scores.shape
    return F.cross_entropy(scores.flatten(0, 1), labels.repeat(rates), reduction="none").view(rates, batch)


def rate_groups(module: nn.Module, *, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Optimiser groups of all heads below ``module``, one for each rate and for with and without weight decay.

    Weight decay is left off biases.
    """
    heads = [head for head in module.modules() if isinstance(head, Head)]
    groups: list[dict[str, Any]] = []
    for factor in RATE_FACTORS:
        chosen = [p for head in heads for p in head.rates[rate_name(factor)].parameters()]
        groups += [
            {"params": [p for p in chosen if len(whole_shape(p)) == 1], "lr": lr * factor, "weight_decay": 0.0},
            {"params": [p for p in chosen if len(whole_shape(p)) > 1], "lr": lr * factor, "weight_decay": weight_decay},
        ]
    return groups
