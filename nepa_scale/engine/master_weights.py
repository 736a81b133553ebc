"""The fp32 weights that the optimiser updates, wherever a ZeRO stage keeps them, and their moving average (EMA).

Stage 0 updates the module's own parameters. Stages 1 to 3 update flat fp32 tensors, of which each rank has a shard
for every parameter group; what the module computes with is a copy, in bf16 where the run says so. Which elements of
which parameter lie where in a shard is what makes a checkpoint independent of the stage.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param
from torch import Tensor, nn

from nepa_scale.distributed.world import World
from nepa_scale.optim.muon import MatrixPart, Muon
from nepa_scale.optim.optimizer import whole_shape


class MasterWeights:
    """The fp32 weights of a module under DeepSpeed's ``optimizer`` at ``stage``."""

    def __init__(self, module: nn.Module, optimizer: Any, stage: int) -> None:
        self._module, self._optimizer, self._stage = module, optimizer, stage

    def shards(self) -> list[Tensor]:
        """This rank's fp32 shards of the trained weights, always in the same order."""
        return [shard.detach() for shard in self.owners()]

    def owners(self) -> list[Tensor]:
        """The tensors of ``shards`` as the optimiser knows them: the keys of its state."""
        if self._stage == 0:
            return [parameter for parameter in self._module.parameters() if parameter.requires_grad]
        if self._stage == 3:
            return list(self._optimizer.fp32_partitioned_groups_flat)
        return list(self._optimizer.single_partition_of_fp32_groups)

    @contextmanager
    def overwriting(self) -> Iterator[list[Tensor]]:
        """Give the shards to write to; on leaving, the module computes with what was written. All ranks enter this.

        Follows what DeepSpeed does in its own step, where it writes to them too.
        """
        if self._stage == 3:
            self._optimizer.checkpoint_event_prologue()  # drops what is gathered of the old weights
        yield self.shards()
        if self._stage == 3:
            for group in range(len(self.shards())):
                self._optimizer._reassign_or_swap_out_partitioned_parameters(group)
            self._optimizer.checkpoint_event_epilogue()  # gathers the small weights that each rank keeps whole
        elif self._stage > 0:
            self._optimizer.update_lp_params()

    @torch.no_grad()
    def gather(self, parameter: nn.Parameter) -> Tensor:
        """A parameter of the module, all of it in fp32, on every rank; all ranks call this."""
        if self._stage > 0 and parameter.requires_grad:
            value: Tensor = safe_get_full_fp32_param(parameter)
            return value.detach()
        with deepspeed.zero.GatheredParameters([parameter]) if self._stage == 3 else nullcontext():
            return parameter.detach().float().clone()


@dataclass(frozen=True)
class ParameterSlice:
    """Consecutive elements of one parameter, flattened, within one of the rank's fp32 shards, flattened too.

    They are elements ``start`` to ``start + numel`` of the parameter, and lie from ``offset`` on in shard ``shard``
    (an index into ``MasterWeights.shards()``).
    """

    name: str
    start: int
    numel: int
    shard: int
    offset: int


#: Of a parameter that other ranks keep.
NOTHING = ParameterSlice("", 0, 0, 0, 0)


def parameter_slices(module: nn.Module, optimizer: Any, stage: int, world: World) -> list[ParameterSlice]:
    """This rank's slices of the trained parameters of a module under DeepSpeed's ``optimizer`` at ``stage``.

    The ranks' slices cover each parameter: all of it on every rank at stage 0, once over all ranks at the others.
    """
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    if stage == 0:
        return [ParameterSlice(name, 0, parameter.numel(), i, 0) for i, (name, parameter) in enumerate(trained)]
    return list(_of_stage_3(trained, optimizer, world) if stage == 3 else _of_stage_1_and_2(trained))


def place_matrices(muon: Muon, module: nn.Module, optimizer: Any, stage: int, world: World) -> None:
    """Tell ``muon``, around which DeepSpeed's ``optimizer`` is built, where the matrices that it updates lie."""
    parameters = {parameter: name for name, parameter in module.named_parameters() if parameter.requires_grad}
    slices = {item.name: item for item in parameter_slices(module, optimizer, stage, world)}
    if stage == 0:
        of_shards = [[parameter] for parameter in parameters]
    else:
        of_shards = optimizer.fp16_groups if stage == 3 else optimizer.bit16_groups
    parts: dict[Tensor, list[MatrixPart]] = {}
    for owner, held in zip(MasterWeights(module, optimizer, stage).owners(), of_shards, strict=True):
        for parameter in filter(muon.orthogonalises, held):
            own = slices.get(parameters[parameter], NOTHING)
            rows, columns = whole_shape(parameter)
            parts.setdefault(owner, []).append(MatrixPart((rows, columns), own.start, own.numel, own.offset))
    muon.place(parts, sharded=stage > 0 and world.size > 1)


def slice_of_rank(slice_: ParameterSlice, world: World) -> ParameterSlice:
    """This rank's part of a slice that every rank has: the parts of all ranks make up the slice."""
    first, last = (slice_.numel * rank // world.size for rank in (world.rank, world.rank + 1))
    return ParameterSlice(slice_.name, slice_.start + first, last - first, slice_.shard, slice_.offset + first)


def _of_stage_1_and_2(trained: list[tuple[str, nn.Parameter]]) -> Iterator[ParameterSlice]:
    """A group's parameters are laid end to end and cut into as many shards as there are ranks."""
    for name, parameter in trained:
        mapping = parameter._hp_mapping  # type: ignore[attr-defined]  # DeepSpeed's; None where other ranks have it all
        if mapping is not None:
            inner, outer = mapping.lp_fragment_address, mapping.hp_fragment_address
            yield ParameterSlice(name, inner.start, inner.numel, mapping.param_group_index, outer.start)


def _of_stage_3(trained: list[tuple[str, nn.Parameter]], optimizer: Any, world: World) -> Iterator[ParameterSlice]:
    """Each parameter is cut into as many equal parts as there are ranks, the last ones padded."""
    for name, parameter in trained:
        shard, offset, padded = optimizer.grad_position[optimizer.get_param_id(parameter)]
        start = padded * world.rank
        numel = min(padded, parameter.ds_numel - start)  # type: ignore[attr-defined]
        if numel > 0:
            yield ParameterSlice(name, start, numel, shard, offset)


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
        """Put the averages in place of the weights; on leaving, the weights are back, bit by bit. All ranks enter.

        After an error they are not put back: that is a collective at stages 1 to 3, and some ranks may not have met the
        error. Nothing uses the weights after one.
        """
        self._exchange()
        yield
        self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        with self._master_weights.overwriting() as shards:
            for shard, average in zip(shards, self.tensors, strict=True):
                weights = shard.clone()
                shard.copy_(average)
                average.copy_(weights)
