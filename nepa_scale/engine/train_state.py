"""The state of a training as a checkpoint holds it: by parameter, whatever ZeRO stage and number of ranks keep it.

Each rank gives the slices it keeps (weights in fp32, the optimiser's moments, the moving average, frozen weights), and
takes from the slices of all ranks those it needs. So a state fits any other stage and number of ranks; where they are
the same, it comes back bit by bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import deepspeed
import torch
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler
from safetensors import SafetensorError
from torch import Tensor, nn

from nepa_scale.distributed.process_group import first_text
from nepa_scale.distributed.world import World
from nepa_scale.engine.master_weights import (
    MasterWeights,
    ParameterSlice,
    WeightAverage,
    parameter_slices,
    slice_of_rank,
)
from nepa_scale.engine.shards import ShardReader, Slice
from nepa_scale.optim.muon import Muon
from nepa_scale.optim.optimizer import whole_shape
from nepa_scale.utils.errors import RunError

WEIGHT, AVERAGE, FROZEN, BUFFER = "weight", "average", "frozen", "buffer"
MOMENTS = ("exp_avg", "exp_avg_sq")
LOSS_SCALE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")  # what moves in DeepSpeed's scaler


class TrainState:
    """This rank's state of a module under DeepSpeed's ``optimizer`` (AdamW, Muon) at ``stage``, and of its average."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: Any,
        stage: int,
        master_weights: MasterWeights,
        average: WeightAverage | None,
        world: World,
    ) -> None:
        self.stage, self.world = stage, world
        self._module, self._master_weights, self._average = module, master_weights, average
        self._optimizer: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
        self._loss_scaler = getattr(optimizer, "loss_scaler", None)
        self._kept: list[list[ParameterSlice]] = [[] for _ in master_weights.shards()]
        for slice_ in parameter_slices(module, optimizer, stage, world):
            self._kept[slice_.shard].append(slice_)

    @property
    def optimizer_steps(self) -> int:
        """Updates that the optimiser has done."""
        return max((int(self._moments(owner).get("step", 0)) for owner in self._master_weights.owners()), default=0)

    @property
    def total_bytes(self) -> int:
        """Bytes of the files of all ranks together, without their headers; under Muon, at most."""
        copies = 1 + len(MOMENTS) + (self._average is not None)
        weights = sum(
            whole_shape(parameter).numel() * (4 * copies if parameter.requires_grad else parameter.element_size())
            for parameter in self._module.parameters()
        )
        return weights + sum(buffer.nbytes for buffer in self._module.buffers())

    @property
    def is_swapped(self) -> bool:
        """Whether DeepSpeed keeps the weights on an NVMe drive, out of reach."""
        shards = self._master_weights.shards()
        return any(
            slice_.offset + slice_.numel > shards[slice_.shard].numel() for kept in self._kept for slice_ in kept
        )

    @property
    def loss_scale(self) -> dict[str, float]:
        """The state of fp16's dynamic loss scale; empty in other number formats."""
        scaler = self._loss_scaler
        return {name: getattr(scaler, name) for name in LOSS_SCALE} if isinstance(scaler, DynamicLossScaler) else {}

    def slices(self) -> list[Slice]:
        """The slices that this rank writes, in the order of ``values``."""
        trained = [item for index in range(len(self._kept)) for item in self._slices_of_shard(index)]
        return trained + [item for item, _ in self._others()]

    @torch.no_grad()
    def values(self) -> Iterator[Tensor]:
        """The flat tensors of ``slices``, where they are: the next step changes them."""
        shards = self._master_weights.shards()
        for index, owner in enumerate(self._master_weights.owners()):
            for kind in self._kinds(index):
                flat = self._tensor(kind, index, owner, shards[index]).reshape(-1)
                for slice_ in self._written(index):
                    yield flat[slice_.offset : slice_.offset + slice_.numel]
        for _, value in self._others():
            yield value

    @torch.no_grad()
    def load(self, reader: ShardReader, optimizer_steps: int, loss_scale: dict[str, float]) -> None:
        """Take the state out of a checkpoint, and two things from its manifest; every rank calls this.

        Raises:
            RunError: on every rank, when something this state has is not in it, or a file cannot be read.
        """
        problem = None
        with self._master_weights.overwriting() as shards:
            try:
                self._fill(reader, shards, optimizer_steps)
            except (OSError, SafetensorError, RunError) as error:  # the other ranks wait at the end of this block
                problem = str(error)
        problem = first_text(problem) or first_text(self._fill_others(reader))
        if problem:
            raise RunError(problem)
        if isinstance(self._loss_scaler, DynamicLossScaler):  # by now the file may state a scale of its own
            vars(self._loss_scaler).update(loss_scale)

    def load_moments(self, reader: ShardReader, optimizer_steps: int) -> None:
        """Take the optimiser's moments alone out of a checkpoint: those of parameters that it lacks begin at 0.

        Every rank calls this. Raises ``RunError`` on every rank, when a file cannot be read.
        """
        problem = None
        try:
            for index, owner in enumerate(self._master_weights.owners()):
                self._fill_moments(reader, index, owner, optimizer_steps, of_all=True)
        except (OSError, SafetensorError) as error:
            problem = str(error)
        if problem := first_text(problem):
            raise RunError(problem)

    def _fill(self, reader: ShardReader, shards: list[Tensor], optimizer_steps: int) -> None:
        averages = []
        for index, owner in enumerate(self._master_weights.owners()):
            self._read(reader, WEIGHT, index, shards[index])
            self._fill_moments(reader, index, owner, optimizer_steps)
            if self._average is not None and optimizer_steps:
                average = shards[index].clone(memory_format=torch.contiguous_format)
                self._read(reader, AVERAGE, index, average)
                averages.append(average)
        if self._average is not None:
            self._average.tensors = averages

    def _fill_moments(
        self, reader: ShardReader, index: int, owner: Tensor, steps: int, *, of_all: bool = False
    ) -> None:
        """A parameter that never had a gradient has no moments at stage 0, unless ``of_all``, and zeros at the others.

        All moments have one count of steps, as a checkpoint keeps one.
        """
        if not steps:
            return
        kinds = self._optimizer.moments(owner) if isinstance(self._optimizer, Muon) else MOMENTS
        moments = {kind: torch.zeros_like(owner, requires_grad=False) for kind in kinds}
        filled = [self._read(reader, kind, index, value, required=False) for kind, value in moments.items()]
        if of_all or self.stage > 0 or all(filled):
            count = {"step": self._as_step(owner, steps)} if kinds == MOMENTS else {}
            self._optimizer.state[owner] = {**count, **moments}

    def _read(self, reader: ShardReader, kind: str, index: int, into: Tensor, *, required: bool = True) -> bool:
        """Read a kind of state of a shard into a tensor of its shape; False where stage 0 has none and needs none."""
        flat = into.view(-1) if into.is_contiguous() else into.reshape(-1)
        for slice_ in self._kept[index]:
            filled = reader.read(
                f"{kind}/{slice_.name}", slice_.start, flat[slice_.offset : slice_.offset + slice_.numel]
            )
            if not filled and required:
                raise RunError(f"the checkpoint does not hold all of {kind}/{slice_.name}; remove its folder")
            if not filled and self.stage == 0:
                return False
        if not into.is_contiguous():
            into.copy_(flat.view(into.shape))
        return True

    def _fill_others(self, reader: ShardReader) -> str | None:
        """Read frozen weights and buffers; returns what is wrong. Rank 0 reads for all those that stage 3 cuts up."""
        problem = None
        for name, parameter in _frozen(self._module):
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=self.stage == 3):
                if self.stage < 3 or self.world.is_main:
                    problem = problem or _read_whole(reader, f"{FROZEN}/{name}", parameter)
        for name, buffer in _buffers(self._module):
            problem = problem or _read_whole(reader, f"{BUFFER}/{name}", buffer)
        return problem

    def _as_step(self, owner: Tensor, steps: int) -> Any:
        """The optimiser's own count of its updates, as torch's AdamW keeps it, or as DeepSpeed's."""
        if not isinstance(self._optimizer, torch.optim.Adam):
            return steps
        fused = self._optimizer.param_groups[0].get("fused")
        return torch.tensor(float(steps), dtype=torch.float32, device=owner.device if fused else None)

    def _kinds(self, index: int) -> list[str]:
        moments = self._moments(self._master_weights.owners()[index])
        kinds = [WEIGHT, *(kind for kind in MOMENTS if kind in moments)]
        return [*kinds, AVERAGE] if self._average is not None and self._average.tensors else kinds

    def _tensor(self, kind: str, index: int, owner: Tensor, shard: Tensor) -> Tensor:
        if kind == AVERAGE and self._average is not None:
            return self._average.tensors[index]
        return shard if kind == WEIGHT else self._moments(owner)[kind]

    def _moments(self, owner: Tensor) -> dict[str, Any]:
        moments: dict[str, Any] = self._optimizer.state.get(owner, {})
        return moments

    def _written(self, index: int) -> list[ParameterSlice]:
        """The slices of a shard that this rank writes: at stage 0, where all ranks have all, a part of each."""
        kept = self._kept[index]
        return [slice_of_rank(slice_, self.world) for slice_ in kept] if self.stage == 0 else kept

    def _slices_of_shard(self, index: int) -> Iterator[Slice]:
        for kind in self._kinds(index):
            for slice_ in self._written(index):
                yield Slice(f"{kind}/{slice_.name}", slice_.start, slice_.numel)

    def _others(self) -> Iterator[tuple[Slice, Tensor]]:
        """This rank's part of the frozen weights; all buffers with rank 0, for they are the same on all ranks."""
        for name, parameter in _frozen(self._module):
            key, numel = f"{FROZEN}/{name}", whole_shape(parameter).numel()
            if self.stage == 3:
                kept = parameter.ds_tensor.detach()  # type: ignore[attr-defined]
                start = kept.numel() * self.world.rank
                value = kept[: max(0, min(kept.numel(), numel - start))]
            else:
                slice_ = slice_of_rank(ParameterSlice(key, 0, numel, 0, 0), self.world)
                start, value = slice_.start, parameter.detach().reshape(-1)[slice_.start : slice_.start + slice_.numel]
            yield Slice(key, start, value.numel(), value.dtype), value
        for name, buffer in _buffers(self._module) if self.world.is_main else ():
            yield Slice(f"{BUFFER}/{name}", 0, buffer.numel(), buffer.dtype), buffer.detach().reshape(-1)


def _read_whole(reader: ShardReader, key: str, into: Tensor) -> str | None:
    flat = torch.empty(into.numel(), dtype=into.dtype)
    try:
        if not reader.read(key, 0, flat):
            return f"the checkpoint does not hold all of {key}; remove its folder"
    except (OSError, SafetensorError) as error:
        return str(error)
    into.copy_(flat.view(into.shape))
    return None


def _frozen(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in module.named_parameters() if not parameter.requires_grad]


def _buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    """The buffers that belong to the state."""
    kept = module.state_dict().keys()
    return [(name, buffer) for name, buffer in module.named_buffers() if name in kept]
