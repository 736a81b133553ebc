"""What a rank of ``test_host_waits.py`` does: a step at every ZeRO stage, with what the host reads of tensors in it."""

from __future__ import annotations

import json
import traceback
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nepa_scale.config.overrides import parse
from nepa_scale.distributed import process_group
from nepa_scale.distributed.world import World, read_environment
from nepa_scale.engine.engine import Engine
from nepa_scale.models.build import build_backbone
from nepa_scale.optim.optimizer import NO_LAYER_DECAY, build_optimizer, group_schedules
from nepa_scale.placement.devices import DeviceMemory
from nepa_scale.placement.ds_config import resolve
from nepa_scale.placement.planner import place
from nepa_scale.tasks.next_embedding import NextEmbedding

CASES = ((0, "fp32"), (0, "bf16-autocast"), (1, "fp32"), (1, "bf16"), (2, "bf16"), (3, "bf16"))


class Reads(TorchDispatchMode):
    """Counts the numbers that are read from tensors, by the function outside of torch that does it."""

    def __init__(self) -> None:
        super().__init__()
        self.by_function: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            stack = [frame for frame in traceback.extract_stack()[:-1] if "/torch/" not in frame.filename]
            self.by_function[stack[-1].name] += 1
        return func(*args, **(kwargs or {}))


def reads_of(stage: int, precision: str, world: World) -> dict[str, int]:
    """Numbers read in the second step, of two micro-batches with clipping and a moving average; ``cpu``: tensors of
    one number that were asked to be on the CPU."""
    words = ["model.size=femto", "pretrain.batch_size=8", "micro_batch_size=4", f"engine.precision={precision}"]
    config = parse([*words, f"engine.ds_config=zero{stage}", "engine.activation_checkpointing=false"])
    placement = place(config, "pretrain", 1, DeviceMemory(None, "not asked", on_gpu=False))
    module = NextEmbedding(build_backbone(config.model.architecture(), 32), config.pretrain)
    optimizer = build_optimizer(module, config.pretrain)
    schedules = group_schedules(optimizer.param_groups, config.pretrain, 10, NO_LAYER_DECAY)
    deepspeed, device = resolve(config, "pretrain", placement), torch.device("cpu")
    engine = Engine(module, optimizer, schedules, deepspeed, world=world, device=device, ema_decay=0.9)
    batches = [(torch.randn(4, 3, 32, 32),)] * 2

    def seed(_: int) -> None:
        module.backbone.seed_rope(3)

    moved, plain = Counter[str](), torch.Tensor.cpu

    def counted(tensor: torch.Tensor) -> torch.Tensor:
        moved["cpu"] += tensor.ndim == 0
        return plain(tensor)

    engine.step(batches, step=0, before_forward=seed)
    torch.Tensor.cpu = counted  # type: ignore[method-assign, assignment]
    with Reads() as reads:
        engine.step(batches, step=1, before_forward=seed)
    torch.Tensor.cpu = plain  # type: ignore[method-assign]
    return dict(reads.by_function + moved)


def main() -> None:
    """Print the reads of every case."""
    world = read_environment()
    process_group.initialise(world)
    print(json.dumps({f"{stage} {precision}": reads_of(stage, precision, world) for stage, precision in CASES}))
    process_group.leave()


if __name__ == "__main__":
    main()
