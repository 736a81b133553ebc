"""What the ranks of ``test_muon.py`` do: pre-training with Muon under the engine, beside Muon written out plainly."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import numpy as np
import torch
from autocast_ranks import images, module_of, seeding, settings
from torch import Tensor

from nepa_scale.distributed import process_group
from nepa_scale.distributed.world import World, read_environment
from nepa_scale.engine.engine import Engine
from nepa_scale.optim.optimizer import build_optimizer, group_schedules
from nepa_scale.placement.devices import DeviceMemory
from nepa_scale.placement.ds_config import resolve
from nepa_scale.placement.planner import place
from nepa_scale.tasks.task import NO_LAYER_DECAY

MOMENTUM, DECAY, BETAS, EPS = 0.9, 0.05, (0.9, 0.95), 1e-8
CPU = torch.device("cpu")


def muon_settings(steps: int, stage: int, world_size: int, accumulation: int = 1) -> Any:
    """The pre-training of ``autocast_ranks`` in fp32, with Muon."""
    config = settings(steps, "fp32", stage, world_size)
    config.pretrain.optimizer, config.pretrain.momentum = "muon", MOMENTUM
    config.pretrain.base_lr = 2e-2
    if accumulation > 1:
        config.micro_batch_size = config.pretrain.batch_size // world_size // accumulation
    return config


def quintic(values: np.ndarray) -> np.ndarray:
    """What five applications of Muon's polynomial make of singular values."""
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return values


def by_singular_values(matrix: Tensor) -> Tensor:
    """Muon's orthogonalised matrix, from a singular value decomposition in float64."""
    left, values, right = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    return torch.from_numpy(left @ np.diag(quintic(values / np.sqrt((values**2).sum()))) @ right)


def plain(steps: int, world_size: int) -> dict[str, Any]:
    """Losses and weights of the loop written out: gradients are clipped, then Muon moves matrices, AdamW the rest."""
    config = muon_settings(steps, 0, world_size)
    module, section = module_of(config), config.pretrain
    schedules = group_schedules([{}], section, steps, NO_LAYER_DECAY)
    parameters = dict(module.named_parameters())
    first = {name: torch.zeros_like(value) for name, value in parameters.items()}
    second = {name: torch.zeros_like(value) for name, value in parameters.items()}
    losses = []
    for step in range(steps):
        total, rate = 0.0, section.peak_lr * schedules[0](step)
        for rank in range(world_size):
            module.backbone.seed_rope(step)
            loss = module(images(step, rank)) / world_size
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(module.parameters(), section.clip_grad_norm)
        with torch.no_grad():
            for name, value in parameters.items():
                gradient = value.grad if value.grad is not None else torch.zeros_like(value)
                if ".blocks." in name and value.ndim == 2:
                    first[name] = MOMENTUM * first[name] + (1 - MOMENTUM) * gradient
                    direction = by_singular_values((1 - MOMENTUM) * gradient + MOMENTUM * first[name])
                    update = 0.2 * math.sqrt(max(value.shape)) * direction
                else:
                    first[name] = BETAS[0] * first[name] + (1 - BETAS[0]) * gradient
                    second[name] = BETAS[1] * second[name] + (1 - BETAS[1]) * gradient.square()
                    mean = first[name] / (1 - BETAS[0] ** (step + 1))
                    square = second[name] / (1 - BETAS[1] ** (step + 1))
                    update = mean / (square.sqrt() + EPS)
                decay = DECAY if value.ndim > 1 else 0.0
                value.sub_(rate * (update + decay * value))
                value.grad = None
        losses.append(total)
    return {"losses": losses, "weights": [value.flatten().tolist() for value in parameters.values()]}


def trained(steps: int, stage: int, world: World, accumulation: int) -> dict[str, Any]:
    """The same under the engine, with each rank's images in so many parts."""
    config = muon_settings(steps, stage, world.size, accumulation)
    module = module_of(config)
    optimizer = build_optimizer(module, config.pretrain)
    device = DeviceMemory(None, "not asked", on_gpu=False)
    resolved = resolve(config, "pretrain", place(config, "pretrain", world.size, device))
    schedules = group_schedules(optimizer.param_groups, config.pretrain, steps, NO_LAYER_DECAY)
    engine = Engine(module, optimizer, schedules, resolved, world=world, device=CPU)
    losses = []
    for step in range(steps):
        parts = [(part,) for part in images(step, world.rank).chunk(accumulation)]
        result = engine.step(parts, step=step, before_forward=seeding(module, step))
        loss = result.loss / world.size
        process_group.sum_over_ranks([loss])
        losses.append(loss.item())
    weights = [engine.master_weights.gather(value).flatten().tolist() for value in engine.module.parameters()]
    return {"losses": losses, "weights": weights}


def main() -> None:
    """Print what the steps, stages and parts of a batch on the command line give, by stage."""
    steps, stages, accumulation = sys.argv[1:]
    world = read_environment()
    process_group.initialise(world)
    found = {name: trained(int(steps), int(name), world, int(accumulation)) for name in stages.split(",")}
    print(json.dumps(found))
    process_group.leave()


if __name__ == "__main__":
    main()
