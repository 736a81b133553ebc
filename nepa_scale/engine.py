"""DeepSpeed behind one small interface: build, step, save, load, gather weights."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from nepa_scale import checkpoints
from nepa_scale.distributed import World, sum_over_ranks
from nepa_scale.ema import WeightAverage
from nepa_scale.errors import RunError
from nepa_scale.export import export
from nepa_scale.masters import Masters
from nepa_scale.optim import Schedule

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

    def save(self, folder: Path, step: int, *, keep: int) -> None:
        """Commit a checkpoint of ``step`` below ``folder``."""

        def write(parent: Path, name: str) -> None:
            self._engine.save_checkpoint(str(parent), tag=name, client_state={"step": step}, save_latest=False)
            if self.average is not None:
                self.average.save(parent / name, self.world, sharded=self.stage > 0)

        checkpoints.save(folder, step, self.world, write, keep=keep)

    def load_newest(self, folder: Path) -> int:
        """Continue from the newest whole checkpoint below ``folder``; returns its step, 0 where there is none.

        Raises:
            RunError: when the checkpoint was written by another number of devices and its state is partitioned.
        """
        found = checkpoints.newest(folder)
        if found is None:
            return 0
        step, path = found
        written_by = checkpoints.world_size_of(path)
        if written_by != self.world.size and self.stage > 0:
            raise RunError(
                f"{path}: written by {written_by} devices under ZeRO, this run has {self.world.size};"
                f" continue with {written_by} devices"
            )
        loaded, _ = self._engine.load_checkpoint(str(folder), tag=path.name)
        if loaded is None:
            raise RunError(f"{path}: DeepSpeed could not load this checkpoint; remove the folder to start anew")
        if self.average is not None:
            self.average.load(path, self.world, sharded=self.stage > 0)
        return step

    def export(self, path: Path, names: Mapping[str, str]) -> None:
        """Write tensors of the module to a safetensors file, in fp32; ``names`` are the module's by the file's.

        All ranks call this; each has one of the tensors whole at a time. Raises ``RunError`` as ``export`` does.
        """
        state = self.module.state_dict(keep_vars=True)
        export(path, {key: state[name] for key, name in names.items()}, self._masters.whole, self.world)

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
