"""Which elements of which parameter a rank keeps, and where: what makes a checkpoint independent of the ZeRO stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from nepa_scale.distributed.world import World


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


def parameter_slices(module: nn.Module, optimizer: Any, stage: int, world: World) -> list[ParameterSlice]:
    """What this rank keeps of the trained parameters of a module under DeepSpeed's ``optimizer`` at ``stage``.

    The ranks' slices cover each parameter: all of it on every rank at stage 0, once over all ranks at the others.
    """
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    if stage == 0:
        return [ParameterSlice(name, 0, parameter.numel(), i, 0) for i, (name, parameter) in enumerate(trained)]
    return list(_of_stage_3(trained, optimizer, world) if stage == 3 else _of_stage_1_and_2(trained))


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
