"""A training of a handful of weights, frozen ones and a buffer among them, without DeepSpeed: one process, stage 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nepa_scale.checkpoint.checkpointer import Checkpoints
from nepa_scale.distributed.world import World
from nepa_scale.engine.master_weights import MasterWeights, WeightAverage
from nepa_scale.engine.train_state import TrainState

ALONE = World()


class SmallTraining:
    """Three layers, the first frozen; the last one has a buffer."""

    def __init__(
        self,
        folder: Path,
        *,
        keep: int = 9,
        width: int = 4,
        world: World = ALONE,
        **options: Any,
    ) -> None:
        torch.manual_seed(0)
        self.module = nn.Sequential(nn.Linear(3, width), nn.Linear(width, 5), nn.BatchNorm1d(5))
        self.module[0].requires_grad_(False)
        trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=0.1, fused=True)
        masters = MasterWeights(self.module, self.optimizer, 0)
        self.average = WeightAverage(masters, 0.9)
        self.state = TrainState(self.module, self.optimizer, 0, masters, self.average, world)
        options = {"asynchronous": False, **options}
        self.checkpoints = Checkpoints(folder, self.state, world, keep=keep, **options)

    def train(self, steps: int = 1) -> None:
        """Some steps on random data."""
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.module(torch.randn(8, 3)).square().sum().backward()
            self.optimizer.step()
            self.average.update()

    def save(self, *steps: int, **options: Any) -> None:
        """Take one step and a checkpoint for each of the given numbers."""
        for step in steps:
            self.train()
            self.checkpoints.save(step, **options)

    def tensors(self) -> list[Tensor]:
        """A copy of all there is of state."""
        states = [self.optimizer.state[p] for p in self.module.parameters() if p.requires_grad]
        moments = [state[key] for state in states if state for key in ("step", "exp_avg", "exp_avg_sq")]
        return [value.clone() for value in (*self.module.state_dict().values(), *moments, *self.average.tensors)]

    def equals(self, tensors: list[Tensor]) -> bool:
        """Whether the state is that of ``tensors``, bit by bit."""
        own = self.tensors()
        return len(own) == len(tensors) and all(map(torch.equal, own, tensors))


def newest_step(folder: Path) -> int:
    """The step that a fresh process would continue from."""
    return SmallTraining(folder).checkpoints.load_newest()
