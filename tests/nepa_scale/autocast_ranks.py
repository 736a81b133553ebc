"""What the ranks of ``test_autocast.py`` do: pre-training under the engine, beside a loop in plain PyTorch.

Both take the same steps: the model and its first weights, smooth random images, the RoPE scale of each step. The loop
is what one writes for DDP: each rank's images by themselves under ``torch.autocast``, gradients averaged in fp32.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nepa_scale.config.overrides import parse
from nepa_scale.config.schema import RunConfig
from nepa_scale.distributed import process_group
from nepa_scale.distributed.world import World, read_environment
from nepa_scale.engine.engine import Engine
from nepa_scale.models.build import build_backbone
from nepa_scale.optim.optimizer import build_optimizer, group_schedules
from nepa_scale.placement.devices import DeviceMemory
from nepa_scale.placement.ds_config import resolve
from nepa_scale.placement.planner import place
from nepa_scale.tasks.next_embedding import NextEmbedding
from nepa_scale.tasks.task import NO_LAYER_DECAY

IMAGE_SIZE, BATCH = 32, 8
CPU = torch.device("cpu")


def settings(steps: int, precision: str, stage: int, world_size: int) -> RunConfig:
    """A pre-training that learns within its steps and whose gradients are clipped in some of them."""
    return parse(
        [
            "task=pretrain",
            "model.size=femto",
            "model.layer_scale_init=0.1",
            "model.weight_init=xavier",
            f"pretrain.image_size={IMAGE_SIZE}",
            f"pretrain.batch_size={BATCH * world_size}",
            f"pretrain.steps={steps}",
            "pretrain.base_lr=5e-2",
            "pretrain.clip_grad_norm=0.2",
            f"engine.precision={precision}",
            f"engine.ds_config=zero{stage}",
        ]
    )


def module_of(config: RunConfig) -> NextEmbedding:
    """The model with the same first weights every time."""
    torch.manual_seed(0)
    backbone = build_backbone(
        config.model.architecture(),
        IMAGE_SIZE,
        layer_scale_init=config.model.layer_scale_init,
        xavier_init=True,
    )
    return NextEmbedding(backbone, config.pretrain)


def images(step: int, rank: int) -> Tensor:
    """A rank's images [B, 3, 32, 32] of a step: smooth, so that a patch can be guessed from those before it."""
    generator = torch.Generator().manual_seed(1000 * step + rank)
    return F.interpolate(torch.randn(BATCH, 3, 3, 3, generator=generator), IMAGE_SIZE, mode="bicubic")


def seeding(module: NextEmbedding, step: int) -> Callable[[int], None]:
    """What states the RoPE scale of a step before each of its forward passes."""
    return lambda _: module.backbone.seed_rope(step)


def plain(steps: int, world_size: int, *, autocast: bool) -> dict[str, Any]:
    """Losses and gradient norms of the loop over all ranks' images, and the weights at its end."""
    config = settings(steps, "fp32", 0, world_size)
    module = module_of(config)
    optimizer = build_optimizer(module, config.pretrain)
    schedules = group_schedules(optimizer.param_groups, config.pretrain, steps, NO_LAYER_DECAY)
    peaks = [group["lr"] for group in optimizer.param_groups]
    losses, norms = [], []
    for step in range(steps):
        for group, schedule, peak in zip(optimizer.param_groups, schedules, peaks, strict=True):
            group["lr"] = peak * schedule(step)
        total = 0.0
        for rank in range(world_size):
            module.backbone.seed_rope(step)
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = module(images(step, rank)) / world_size
            loss.backward()
            total += loss.item()
        norms.append(float(torch.nn.utils.clip_grad_norm_(module.parameters(), config.pretrain.clip_grad_norm)))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return {"losses": losses, "norms": norms, "weights": [value.flatten().tolist() for value in module.parameters()]}


def trained(steps: int, precision: str, stage: int, world: World, **autocast: Any) -> dict[str, Any]:
    """The same under the engine; ``autocast``: keys of DeepSpeed's section in place of the file's."""
    config = settings(steps, precision, stage, world.size)
    module = module_of(config)
    optimizer = build_optimizer(module, config.pretrain)
    resolved = resolve(
        config, "pretrain", place(config, "pretrain", world.size, DeviceMemory(None, "not asked", on_gpu=False))
    )
    resolved["torch_autocast"] |= autocast
    schedules = group_schedules(optimizer.param_groups, config.pretrain, steps, NO_LAYER_DECAY)
    engine = Engine(module, optimizer, schedules, resolved, world=world, device=CPU)
    losses, norms = [], []
    for step in range(steps):
        result = engine.step([(images(step, world.rank),)], step=step, before_forward=seeding(module, step))
        loss = result.loss / world.size
        process_group.sum_over_ranks([loss])
        losses.append(loss.item())
        norms.append(result.grad_norm)
    weights = [engine.master_weights.gather(value).flatten().tolist() for value in engine.module.parameters()]
    return {"losses": losses, "norms": norms, "weights": weights}


def main() -> None:
    """Print what steps, precision and stages give, by stage; JSON with keys of DeepSpeed's section may follow."""
    steps, precision, stages, *autocast = sys.argv[1:]
    world = read_environment()
    process_group.initialise(world)
    keys = json.loads(autocast[0]) if autocast else {}
    print(json.dumps({name: trained(int(steps), precision, int(name), world, **keys) for name in stages.split(",")}))
    process_group.leave()


if __name__ == "__main__":
    main()
