"""DeepSpeed behind one small interface: build, step, gather weights; ``state`` is what a checkpoint holds.

Patches of DeepSpeed 0.19 skip work without effect in every step, on the engine of one run. Each replaces a method of
one object; tests compare the results with those of an engine without patches, ``benchmarks/zero_overhead.py`` the time.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.runtime import torch_autocast
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler
from deepspeed.utils.z3_leaf_module import set_z3_leaf_module
from timm.models.eva import EvaBlock
from torch import Tensor, nn

from nepa_scale.distributed.process_group import sum_over_ranks
from nepa_scale.distributed.world import World
from nepa_scale.engine.master_weights import MasterWeights, WeightAverage, place_matrices
from nepa_scale.engine.shards import export_tensors
from nepa_scale.engine.train_state import TrainState
from nepa_scale.optim.muon import Muon
from nepa_scale.optim.optimizer import Schedule

Batch = tuple[Tensor, ...]


@dataclass(frozen=True)
class StepResult:
    """The outcome of one optimiser step.

    ``loss`` is the mean over this rank's images, left on the device: reading it would make the host wait.
    ``grad_norm`` is that of the global batch before clipping, infinite where the step was not ``taken`` because
    something was not finite; with ``rescaled`` that made fp16's loss scale smaller. ``lr`` is the largest group's
    rate.
    """

    loss: Tensor
    grad_norm: float
    lr: float
    taken: bool
    rescaled: bool = False


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
        self._autocasts: bool = ds_config["torch_autocast"]["enabled"]
        forget_autocast()
        self._schedules, self._peaks = schedules, [group["lr"] for group in optimizer.param_groups]
        self._clip_grad_norm: float = ds_config["gradient_clipping"]
        # Stage 3 uses a weight once in a pass: a cache of bf16 copies would hold all of them for nothing.
        torch.set_autocast_cache_enabled(self.stage < 3)
        if self.stage == 3:
            gather_by_block(module)
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=module.to(device),
            optimizer=optimizer,
            config=ds_config | ({} if self.stage else {"gradient_clipping": 0.0}),
            dist_init_required=False,
        )
        apply_patches(self._engine, self._optimizer, stage=self.stage, world_size=world.size)
        self.module: nn.Module = self._engine.module
        self._parameters = list(self.module.parameters())
        self.master_weights = MasterWeights(self.module, self._optimizer, self.stage)
        if isinstance(optimizer, Muon):
            place_matrices(optimizer, self.module, self._optimizer, self.stage, world)
        self.average = WeightAverage(self.master_weights, ema_decay) if ema_decay else None
        self.state = TrainState(self.module, self._optimizer, self.stage, self.master_weights, self.average, world)

    def step(self, micro_batches: Sequence[Batch], *, step: int, before_forward: Callable[[int], None]) -> StepResult:
        """Optimiser step number ``step`` (from 0) over this rank's micro-batches.

        A step whose loss or gradient is not finite on any rank is not taken, on any rank and at any stage: weights,
        moments and average stay as they are.

        Args:
            before_forward: called with the micro-step's index just before its forward pass (seeds randomness).
        """
        rates = self.rates(step)
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        loss_sum = torch.zeros((), device=self.device)
        for index, batch in enumerate(micro_batches):
            before_forward(index)
            loss = self._engine(*(item.to(self.device, non_blocking=True) for item in batch))
            loss_sum += loss.detach().float()
            self._engine.backward(poison_unless_finite(loss))
            if index + 1 < len(micro_batches):
                self._engine.step()
        scale = self._loss_scale()
        grad_norm = self._take_step()
        taken = math.isfinite(grad_norm)
        if taken and self.average is not None:
            self.average.update()
        return StepResult(
            loss_sum / len(micro_batches), grad_norm, max(rates), taken, rescaled=self._loss_scale() < scale
        )

    def weights_are_finite(self) -> bool:
        """Whether every fp32 weight is a finite number; all ranks call this and get the same answer."""
        shards = [shard for shard in self.master_weights.shards() if shard.numel()]  # one on NVMe has none in memory
        # An offloaded shard is on the host, and the ranks talk over the device.
        largest = [torch.linalg.vector_norm(shard, math.inf).to(self.device) for shard in shards]
        bad = torch.zeros((), device=self.device)
        if largest:
            bad += torch.stack(largest).isfinite().logical_not().any()
        sum_over_ranks([bad])
        return not bad.item()

    def export(self, path: Path, names: Mapping[str, str]) -> None:
        """Write tensors of the module to a safetensors file, in fp32; ``names`` are the module's by the file's.

        All ranks call this; each gathers one tensor at a time. Raises ``RunError`` as ``export`` does.
        """
        state = self.module.state_dict(keep_vars=True)
        export_tensors(path, {key: state[name] for key, name in names.items()}, self.master_weights.gather, self.world)

    @contextmanager
    def readable(self) -> Iterator[None]:
        """Make methods other than ``forward`` callable on the module, for evaluation; every rank enters this.

        ZeRO-3 gathers a module's own weights when its ``forward`` is called. Those that hang on a module with
        children (the class token) are used by its other methods too, so they are gathered here. Under autocast they
        compute as ``forward`` does.
        """
        owners = [module for module in self.module.modules() if next(module.children(), None) is not None]
        parameters = [parameter for module in owners for parameter in module.parameters(recurse=False)]
        # Without a cache: the moving average takes the weights' place while this lasts.
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocasts, cache_enabled=False)
        with deepspeed.zero.GatheredParameters(parameters) if self.stage == 3 else nullcontext(), autocast:
            yield

    def rates(self, step: int) -> list[float]:
        """Every group's learning rate in optimiser step number ``step``. Nothing of it needs to be saved."""
        return [peak * schedule(step) for peak, schedule in zip(self._peaks, self._schedules, strict=True)]

    def _loss_scale(self) -> float:
        """The factor by which fp16 multiplies the loss; 1 in other formats."""
        return float(getattr(self._optimizer, "loss_scale", 1.0))

    def _take_step(self) -> float:
        """Clip and apply the accumulated gradient, if it is finite; returns its norm before clipping."""
        if self.stage > 0:
            self._engine.step()
            return float(self._engine.get_global_grad_norm()) if self._engine.was_step_applied() else math.inf
        # DeepSpeed's fp32 stage 0 would neither look for NaN nor tell the norm.
        norm = torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        grad_norm = float(norm)
        if not math.isfinite(grad_norm):
            self._leave_out_step()
            return math.inf
        if self._clip_grad_norm:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self._clip_grad_norm, norm)
        self._engine.step()
        return grad_norm

    def _leave_out_step(self) -> None:
        """Have DeepSpeed count the micro-batch without a step, and drop its gradient."""
        self._engine.set_gradient_accumulation_boundary(False)
        self._engine.step()
        self._engine.set_gradient_accumulation_boundary(None)
        self._engine.zero_grad()


def gather_by_block(module: nn.Module) -> None:
    """Have stage 3 gather the weights of a block together, and reduce its gradients together: hooks of each of its
    layers take longer than the layers themselves, unless these are large.

    DeepSpeed takes a block's gradients once that of its input is there. The first block's input may have none, where
    the patch embedding is frozen, so that block stays as it is.
    """
    blocks = [item for item in module.modules() if isinstance(item, EvaBlock)]
    for block in blocks[1:]:
        set_z3_leaf_module(block, True)


def poison_unless_finite(loss: Tensor) -> Tensor:
    """The same loss, or one whose gradients are all NaN where it is not finite.

    Gradients are summed over ranks, so one rank's bad loss makes every rank see a bad gradient: they agree without
    another message, and without waiting for the device.
    """
    return loss * torch.where(loss.detach().isfinite(), 1.0, math.nan)


def forget_autocast() -> None:
    """Reset what DeepSpeed keeps for the whole process: once a training has used autocast, all later ones would
    communicate in the number format of their parameters, whatever their files say."""
    torch_autocast.TORCH_AUTOCAST_INITIALIZED = False


def apply_patches(engine: Any, optimizer: Any, *, stage: int, world_size: int) -> None:
    """Patch ``engine`` and its ``optimizer`` as far as the ZeRO ``stage`` and the number of ranks allow."""
    if stage == 0 and world_size == 1:
        # It would copy all gradients into a flat buffer, average that with nobody, and copy it back.
        engine.enable_backward_allreduce = False
    if stage in (1, 2) and not optimizer.cpu_offload:
        optimizer.scaled_global_norm = MethodType(_global_norm, optimizer)
        optimizer.check_overflow = MethodType(_leave_to_the_norm, optimizer)
        if world_size == 1 and not optimizer.contiguous_gradients:
            optimizer.buffered_reduce_fallback = MethodType(_reduce_nothing, optimizer)
    if stage == 3:
        norms = optimizer._get_norm_groups
        optimizer._get_norm_groups = lambda: [norm.cpu() for norm in norms()]
    scaler = getattr(optimizer, "loss_scaler", None)
    if isinstance(scaler, DynamicLossScaler):
        # Steps are then skipped, which the training counts; DeepSpeed would raise a plain Exception.
        scaler.raise_error_at_min_scale = False


def _global_norm(optimizer: Any) -> Tensor:
    """The norm of the averaged gradient, of which each rank has a shard, summed in fp32.

    DeepSpeed converts every tensor to fp64 first, and has the ranks wait for one another once for each group. NaN and
    infinity come through, and DeepSpeed then does not take the step. The norm is on the CPU, as at stage 3: DeepSpeed
    looks at it several times, and then the host waits for the device only here, before the optimiser.
    """
    shards = [shard for group in optimizer.averaged_gradients.values() for shard in group]
    norms = torch.stack([torch.linalg.vector_norm(shard, dtype=torch.float32) for shard in shards])
    square = norms.square().sum()
    dist.all_reduce(square, group=optimizer.dp_process_group)
    return square.sqrt().cpu()


def _leave_to_the_norm(_optimizer: Any, *_arguments: Any, **_keywords: Any) -> None:
    """DeepSpeed would look in all gradients for what is not finite; it looks at their norm next, which tells it."""


def _reduce_nothing(_optimizer: Any, *_arguments: Any, **_keywords: Any) -> None:
    """One rank's gradients are their own average."""
