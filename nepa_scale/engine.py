"""DeepSpeed behind one small interface: build, step, gather weights; ``state`` is what a checkpoint holds."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from nepa_scale.distributed import World, sum_over_ranks
from nepa_scale.ema import WeightAverage
from nepa_scale.masters import Masters
from nepa_scale.optim import Schedule
from nepa_scale.train_state import TrainState

Batch = tuple[Tensor, ...]


@dataclass(frozen=True)
class StepResult:
    """What one optimiser step reports: mean loss of the global batch, gradient norm before clipping, largest rate."""

    loss: float
    grad_norm: float
    lr: float


class Engine:
    """A module under DeepSpeed. The module's ``forward(*batch)`` returns the loss, a scalar."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedules: list[Schedule],
        ds_config: dict[str, Any],
        *,
        world: World,
        device: torch.device,
        ema_decay: float = 0.0,
    ) -> None:
        """Take one of ``schedules`` for each group of ``optimizer``; no average if ``ema_decay`` is 0."""
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        # DeepSpeed still calls torch's collectives by their old names, and torch says so at every step.
        warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
        self.world, self.device = world, device
        self.stage: int = ds_config["zero_optimization"]["stage"]
        self._engine, self._optimizer, _, self._schedule = deepspeed.initialize(
            model=module.to(device),
            optimizer=optimizer,
            lr_scheduler=LambdaLR(optimizer, schedules),
            config=ds_config,
            dist_init_required=False,
        )
        self.module: nn.Module = self._engine.module
        self._masters = Masters(self.module, self._optimizer, self.stage)
        self.average = WeightAverage(self._masters, ema_decay) if ema_decay else None
        self.state = TrainState(self.module, self._optimizer, self.stage, self._masters, self.average, world)

    def step(self, micro_batches: Sequence[Batch], *, before_forward: Callable[[int], None]) -> StepResult:
        """One optimiser step over this rank's micro-batches.

        Args:
            before_forward: called with the micro-step's index just before its forward pass (seeds randomness).

        Raises:
            FloatingPointError: when the loss of any rank is not finite; the step is then not taken.
        """
        lr = max(self._engine.get_lr())
        total = torch.zeros(1, device=self.device)
        norm: float | None = None
        for index, batch in enumerate(micro_batches):
            before_forward(index)
            loss = self._engine(*(item.to(self.device, non_blocking=True) for item in batch))
            self._engine.backward(loss)
            total += loss.detach().float()
            if index + 1 == len(micro_batches):
                norm = self._unreported_norm()
                mean = self._mean_over_ranks(total / len(micro_batches))
            self._engine.step()
        if self.average is not None:
            self.average.update()
        return StepResult(loss=mean, grad_norm=norm if norm is not None else self._reported_norm(), lr=lr)

    def continue_from(self, step: int) -> None:
        """Count on from ``step``, once ``state`` is that of a checkpoint of it."""
        self._engine.global_steps = step
        if step:
            self._schedule.last_epoch, self._schedule._step_count = step - 1, step
            self._schedule.step()

    def gather_weights(self) -> dict[str, Tensor]:
        """The whole module's state dict on the CPU of rank 0 (empty elsewhere), weights in fp32; all ranks call it."""
        weights = {}
        for name, parameter in self.module.named_parameters():
            whole = self._masters.whole(parameter)
            if self.world.is_main:
                weights[name] = whole.cpu()
        if not self.world.is_main:
            return {}
        state = self.module.state_dict()
        return {name: weights[name] if name in weights else state[name].cpu().clone() for name in state}

    @contextmanager
    def readable(self) -> Iterator[None]:
        """Make methods other than ``forward`` callable on the module, for evaluation; every rank enters this.

        ZeRO-3 gathers a module's own weights when its ``forward`` is called. Those that hang on a module with
        children (the class token) are used by its other methods too, so they are gathered here.
        """
        owners = [module for module in self.module.modules() if next(module.children(), None) is not None]
        own = [parameter for module in owners for parameter in module.parameters(recurse=False)]
        with deepspeed.zero.GatheredParameters(own) if self.stage == 3 else nullcontext():
            yield

    def _mean_over_ranks(self, value: Tensor) -> float:
        value = value / self.world.size
        sum_over_ranks([value])
        mean = float(value.item())
        if not math.isfinite(mean):
            raise FloatingPointError(f"the loss is {mean}; lower the learning rate or lengthen the warm-up")
        return mean

    def _unreported_norm(self) -> float | None:
        """The gradient norm where DeepSpeed reports none (fp32 stage 0): after accumulation, before clipping."""
        if self.stage != 0:
            return None
        gradients = [parameter.grad for parameter in self.module.parameters() if parameter.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    def _reported_norm(self) -> float:
        return float(self._engine.get_global_grad_norm())
