"""The fp32 weights that the optimiser updates, wherever a ZeRO stage keeps them.

Stage 0 updates the module's own parameters. Stages 1 to 3 update flat fp32 tensors, of which each rank has a shard
of every parameter group; what the module computes with is a copy, in bf16 where the run says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param
from torch import Tensor, nn


class MasterWeights:
    """The fp32 weights of a module under DeepSpeed's ``optimizer`` at ``stage``."""

    def __init__(self, module: nn.Module, optimizer: Any, stage: int) -> None:
        self._module, self._optimizer, self._stage = module, optimizer, stage

    def shards(self) -> list[Tensor]:
        """What of the trained weights this rank keeps in fp32, each time in the same order."""
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
    def whole(self, parameter: nn.Parameter) -> Tensor:
        """A parameter of the module, all of it in fp32, on every rank; all ranks call this."""
        if self._stage > 0 and parameter.requires_grad:
            value: Tensor = safe_get_full_fp32_param(parameter)
            return value.detach()
        with deepspeed.zero.GatheredParameters([parameter]) if self._stage == 3 else nullcontext():
            return parameter.detach().float().clone()
