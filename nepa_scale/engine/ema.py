"""A moving average of the weights in fp32, kept where the optimiser keeps them: each rank averages its own shard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from nepa_scale.engine.master_weights import MasterWeights


class WeightAverage:
    """average <- decay x average + (1 - decay) x weights, once for each optimiser step; the first step copies them.

    As the authors' code has it (decay 0.9999): no correction for the start, no targets made of the average.

    Attributes:
        tensors: the averages, one for each of the rank's shards and of its shape; none before the first step.
    """

    def __init__(self, master_weights: MasterWeights, decay: float) -> None:
        self._master_weights, self._decay = master_weights, decay
        self.tensors: list[Tensor] = []

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights of the step just done."""
        shards = self._master_weights.shards()
        if self.tensors:
            torch._foreach_lerp_(self.tensors, shards, 1 - self._decay)
        else:
            self.tensors = [shard.clone(memory_format=torch.contiguous_format) for shard in shards]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the averages in place of the weights; on leaving, the weights are back, bit by bit. All ranks enter."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        with self._master_weights.overwriting() as shards:
            for shard, average in zip(shards, self.tensors, strict=True):
                weights = shard.clone()
                shard.copy_(average)
                average.copy_(weights)
