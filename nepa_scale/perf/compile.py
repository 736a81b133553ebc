"""How a task's blocks run: compiled where that saves more time than it takes, and by which kernel they attend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.attention import SDPBackend

from nepa_scale.config.schema import RunConfig
from nepa_scale.distributed.world import World
from nepa_scale.perf.throughput import DTYPES
from nepa_scale.placement.resolved import ResolvedTask
from nepa_scale.utils.progress import logger

if TYPE_CHECKING:
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


def report_attention(config: RunConfig, device: torch.device) -> None:
    """Name the kernel by which a GPU attends, and warn where it is the slow one, which keeps all scores in memory."""
    if device.type != "cuda":
        return
    arch = config.architecture(config.task)
    head_width = arch.embed_dim // arch.num_heads
    kernel = attention_kernel(head_width, DTYPES[config.engine.precision], device)
    if kernel == "math":
        logger.warning("%s: this GPU has no fused attention for heads of width %d", config.task, head_width)
    else:
        logger.info("%s: attention by %s", config.task, kernel)


def attention_kernel(head_width: int, dtype: torch.dtype, device: torch.device, *, causal: bool = True) -> str:
    """The kernel that torch takes for attention in training with heads of this width: ``flash_attention``,
    ``efficient_attention``, ``cudnn_attention`` or ``math``. Its choice does not depend on the number of tokens."""
    heads = torch.empty(1, 1, 64, head_width, dtype=dtype, device=device, requires_grad=True)
    return SDPBackend(torch._fused_sdp_choice(heads, heads, heads, is_causal=causal)).name.lower()
