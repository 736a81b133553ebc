"""A moving average of the weights in fp32, kept where the optimiser keeps them: each rank averages its own share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from nepa_scale.distributed import World
from nepa_scale.errors import RunError
from nepa_scale.masters import Masters


class WeightAverage:
    """average <- decay x average + (1 - decay) x weights, once for each optimiser step; the first step copies them.

    As the authors' code has it (decay 0.9999): no correction for the start, no targets made of the average.
    """

    def __init__(self, masters: Masters, decay: float) -> None:
        self._masters, self._decay = masters, decay
        self._averages: list[Tensor] = []

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights of the step just done."""
        shares = self._masters.shares()
        if self._averages:
            torch._foreach_lerp_(self._averages, shares, 1 - self._decay)
        else:
            self._averages = [share.clone(memory_format=torch.contiguous_format) for share in shares]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the averages in place of the weights; on leaving, the weights are back, bit by bit. All ranks enter."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def save(self, folder: Path, world: World, *, sharded: bool) -> None:
        """Write this rank's averages; where they are whole on every rank (not ``sharded``), those of rank 0."""
        if sharded or world.is_main:
            content = {f"{index:06d}": average for index, average in enumerate(self._averages)}
            safetensors.torch.save_file(content, _file(folder, world, sharded=sharded))

    def load(self, folder: Path, world: World, *, sharded: bool) -> None:
        """Continue from what ``save`` wrote. Raises ``RunError`` naming a file that is missing or does not fit."""
        path, shares = _file(folder, world, sharded=sharded), self._masters.shares()
        try:
            content = safetensors.torch.load_file(path)
        except (OSError, SafetensorError) as error:
            raise RunError(f"{path}: not a readable safetensors file ({error}); remove its folder") from error
        averages = [content[name] for name in sorted(content)]
        if [average.shape for average in averages] != [share.shape for share in shares]:
            raise RunError(f"{path}: does not hold the averages of this run's weights; remove its folder")
        self._averages = [average.to(share.device) for average, share in zip(averages, shares, strict=True)]

    @torch.no_grad()
    def _exchange(self) -> None:
        with self._masters.overwriting() as shares:
            for share, average in zip(shares, self._averages, strict=True):
                weights = share.clone()
                share.copy_(average)
                average.copy_(weights)


def _file(folder: Path, world: World, *, sharded: bool) -> Path:
    return folder / f"ema_{world.rank if sharded else 0:05d}.safetensors"
