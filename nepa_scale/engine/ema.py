"""A moving average of the weights in fp32, kept where the optimiser keeps them: each rank averages its own share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from nepa_scale.engine.master_weights import Masters


class WeightAverage:
    """average <- decay x average + (1 - decay) x weights, once for each optimiser step; the first step copies them.

    As the authors' code has it (decay 0.9999): no correction for the start, no targets made of the average.

    Attributes:
        tensors: the averages, one for each of the rank's shares and of its shape; none before the first step.
    """

    def __init__(self, masters: Masters, decay: float) -> None:
        self._masters, self._decay = masters, decay
        self.tensors: list[Tensor] = []

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights of the step just done."""
        shares = self._masters.shares()
        if self.tensors:
            torch._foreach_lerp_(self.tensors, shares, 1 - self._decay)
        else:
            self.tensors = [share.clone(memory_format=torch.contiguous_format) for share in shares]

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
        with self._masters.overwriting() as shares:
            for share, average in zip(shares, self.tensors, strict=True):
                weights = share.clone()
                share.copy_(average)
                average.copy_(weights)
