"""Muon: the blocks' matrices move along their orthogonalised momentum, all other parameters as under AdamW.

Keller Jordan, "Muon" (kellerjordan.github.io/posts/muon), with the scale of arXiv 2502.16982: an update has the root
mean square of AdamW's, so that both share a learning rate and a weight decay.

Under ZeRO a rank updates a shard of the flattened weights, and only whole matrices can be orthogonalised: their parts
are summed over the ranks, one matrix at a time. DeepSpeed's own Muon is not used (docs/optimisers.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

#: Of the quintic that takes singular values towards 1, and how often it is applied (Jordan).
COEFFICIENTS, ITERATIONS = (3.4445, -4.7750, 2.0315), 5
SMALLEST_NORM = 1e-7
#: Root mean square of an update of AdamW (arXiv 2502.16982, section 2.2).
ADAMW_RMS = 0.2
#: The key of a parameter group that says whether its tensors are matrices to orthogonalise.
IS_MUONS = "orthogonalised"


@dataclass(frozen=True)
class MatrixPart:
    """A matrix of ``shape`` and what of it lies in a flat tensor that this rank updates: elements ``start`` to
    ``start + numel`` of the matrix, flattened, from ``offset`` on."""

    shape: tuple[int, int]
    start: int
    numel: int
    offset: int


class Muon(torch.optim.AdamW):
    """AdamW whose groups with ``orthogonalised`` true are updated by Muon; their only state is the momentum."""

    def __init__(self, groups: list[dict[str, Any]], *, momentum: float, **adamw: Any) -> None:
        """Take the groups of ``parameter_groups`` and AdamW's settings; ``momentum`` is Muon's."""
        super().__init__(groups, **adamw)
        self._momentum = momentum
        self._matrices = {tensor for group in groups if group[IS_MUONS] for tensor in group["params"]}
        self._parts: dict[Tensor, Sequence[MatrixPart]] = {}
        self._sharded = False

    def orthogonalises(self, parameter: Tensor) -> bool:
        """Whether ``parameter``, one of those that it was made with, is updated by Muon."""
        return parameter in self._matrices

    def place(self, parts: Mapping[Tensor, Sequence[MatrixPart]], *, sharded: bool) -> None:
        """Say which matrices each tensor of Muon's groups holds, in the same order on all ranks.

        Args:
            sharded: whether a matrix may lie on several ranks. Steps are then collective.
        """
        self._parts, self._sharded = dict(parts), sharded

    def moments(self, tensor: Tensor) -> tuple[str, ...]:
        """The names of the state that is kept of ``tensor``: the mean gradient, and AdamW's mean square."""
        return ("exp_avg",) if tensor in self._parts else ("exp_avg", "exp_avg_sq")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update the tensors of all groups that have a gradient."""
        groups = self.param_groups
        for group in groups:
            for tensor in group["params"] if group[IS_MUONS] else ():
                if tensor.grad is not None:
                    self._update(tensor, tensor.grad, group)
        self.param_groups = [group for group in groups if not group[IS_MUONS]]
        try:
            return super().step(closure)
        finally:
            self.param_groups = groups

    def _update(self, tensor: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[tensor]
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(tensor)
        mean = state["exp_avg"].lerp_(gradient, 1 - self._momentum)
        direction = gradient.lerp(mean, self._momentum).reshape(-1)  # Nesterov's
        tensor.mul_(1 - group["lr"] * group["weight_decay"])
        weights = tensor.view(-1)
        for part in self._parts[tensor]:
            update = orthogonalised(self._whole(direction, part)).reshape(-1)
            scale = ADAMW_RMS * math.sqrt(max(part.shape))
            own = weights[part.offset : part.offset + part.numel]
            own.sub_(update[part.start : part.start + part.numel], alpha=group["lr"] * scale)

    def _whole(self, flat: Tensor, part: MatrixPart) -> Tensor:
        """The whole matrix of which a part lies in ``flat``, on every rank."""
        own = flat[part.offset : part.offset + part.numel]
        if not self._sharded:
            return own.view(part.shape)
        whole = flat.new_zeros(part.shape)
        whole.view(-1)[part.start : part.start + part.numel] = own
        dist.all_reduce(whole)
        return whole


def orthogonalised(matrix: Tensor) -> Tensor:
    """A matrix [R, C] with the singular vectors of ``matrix`` and singular values between about 0.7 and 1.2.

    Newton-Schulz iteration in the number format of ``matrix``. That is fp32, where a GPU may use TF32: in bf16, as is
    usual, the last digits of a gradient would decide over the third digit of an update.
    """
    a, b, c = COEFFICIENTS
    x = matrix / matrix.norm().clamp(min=SMALLEST_NORM)
    x = x.T if matrix.shape[0] > matrix.shape[1] else x
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x
