"""Whether a task's blocks are compiled: where the time saved is more than the compiler takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nepa_scale.distributed.world import World
from nepa_scale.placement.resolved import ResolvedTask
from nepa_scale.utils.progress import logger

if TYPE_CHECKING:
    import torch

    from nepa_scale.models.nepa_vit import NepaViT

#: Training FLOPs per process from which compiling pays on a CPU: half an hour at 100 GFLOP/s, of which some tenth is
#: saved, against half a minute to two minutes for the compiler.
_REPAID_ON_A_CPU = 1.8e14


def compile_backbone(backbone: NepaViT, resolved: ResolvedTask, *, world: World, device: torch.device) -> bool:
    """Compile the blocks where ``engine.compile`` says so, or where it is left open and pays; whether it was done.

    Under ZeRO-3 the blocks stay as they are: weights are gathered by hooks of modules, which a graph of several
    modules passes by. The decision depends on the configuration, the devices and nothing else: a resumed run makes
    it again.
    """
    asked = wanted = resolved.config.engine.compile
    if wanted is None:
        wanted = device.type != "cpu" or resolved.cost.flops_train / world.size >= _REPAID_ON_A_CPU
    done = wanted and resolved.placement.zero_stage < 3 and backbone.compile_blocks()
    if asked and not done:
        task = resolved.config.task
        logger.warning("%s: engine.compile=true has no effect (ZeRO stage 3, stochastic depth or any image size)", task)
    return done
