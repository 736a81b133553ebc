"""What the ranks of ``test_engine.py`` do: a small regression under the engine, and the same loop without DeepSpeed."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import torch
from torch import Tensor, nn

from nepa_scale.config.overrides import parse
from nepa_scale.distributed import process_group
from nepa_scale.distributed.world import World, read_environment
from nepa_scale.engine.engine import Engine
from nepa_scale.placement.devices import DeviceMemory
from nepa_scale.placement.ds_config import resolve
from nepa_scale.placement.planner import place

WIDTH, BATCH, STEPS = 6, 4, 6
PEAKS = (1e-2, 3e-2)


class Regression(nn.Module):
    """Inputs [B, W] and targets [B, W] -> the mean squared error of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The loss, a scalar in fp32."""
        outputs = self.second(self.first(inputs.to(self.first.weight.dtype)).tanh())
        return (outputs.float() - targets).square().mean()


def fresh() -> tuple[Regression, torch.optim.AdamW]:
    """The same start every time: weights and biases are two groups with rates of their own."""
    torch.manual_seed(0)
    module = Regression()
    groups = [[p for p in module.parameters() if p.ndim == n] for n in (2, 1)]
    settings = [
        {"params": params, "lr": lr, "weight_decay": decay}
        for params, lr, decay in zip(groups, PEAKS, (0.1, 0.0), strict=True)
    ]
    return module, torch.optim.AdamW(settings, lr=PEAKS[0], betas=(0.9, 0.95))


def rate(step: int) -> float:
    """A schedule that differs at every step."""
    return (step + 1) / STEPS


def batch(step: int, rank: int, *, bad: bool = False) -> tuple[Tensor, Tensor]:
    """A rank's samples of a step, one of them infinite where ``bad``."""
    generator = torch.Generator().manual_seed(100 * step + rank)
    inputs, targets = torch.randn(2, BATCH, WIDTH, generator=generator)
    if bad:
        targets[1, 2] = math.inf
    return inputs, targets


def plain(steps: list[int], world_size: int, clip: float) -> tuple[list[float], list[float], list[Tensor]]:
    """(losses, gradient norms, weights) of the loop as one would write it, over all ranks' samples at once."""
    module, optimizer = fresh()
    losses, norms = [], []
    for step in steps:
        for group, peak in zip(optimizer.param_groups, PEAKS, strict=True):
            group["lr"] = peak * rate(step)
        whole = [torch.cat(parts) for parts in zip(*(batch(step, r) for r in range(world_size)), strict=True)]
        loss = module(*whole)
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(module.parameters(), clip)))
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    return losses, norms, [parameter.detach().clone() for parameter in module.parameters()]


def engine_of(stage: int, precision: str, world: World, clip: float, **zero: Any) -> Engine:
    """The engine around a fresh module."""
    module, optimizer = fresh()
    words = ["task=pretrain", f"engine.precision={precision}", f"engine.ds_config=zero{stage}"]
    size = world.size * BATCH
    config = parse([*words, f"pretrain.batch_size={size}", f"pretrain.clip_grad_norm={clip}"])
    resolved = resolve(
        config, "pretrain", place(config, "pretrain", world.size, DeviceMemory(None, "not asked", on_gpu=False))
    )
    resolved["zero_optimization"] |= zero
    device = torch.device("cpu")
    return Engine(module, optimizer, [rate, rate], resolved, world=world, device=device, ema_decay=0.5)


def trained(engine: Engine, world: World, *, bad_rank: int | None = None, bad_step: int = -1) -> dict[str, list[float]]:
    """Losses, norms and whether each step was taken; one rank's samples of one step may be bad."""
    losses, norms, taken = [], [], []
    for step in range(STEPS):
        samples = batch(step, world.rank, bad=step == bad_step and world.rank == bad_rank)
        result = engine.step([samples], step=step, before_forward=lambda _: None)
        loss = result.loss / world.size
        process_group.sum_over_ranks([loss])
        losses.append(loss.item())
        norms.append(result.grad_norm)
        taken.append(float(result.taken))
    return {"losses": losses, "norms": norms, "taken": taken}


def weights_of(engine: Engine) -> list[list[float]]:
    """The whole fp32 weights, flat, on every rank."""
    return [engine.master_weights.gather(parameter).flatten().tolist() for parameter in engine.module.parameters()]


def agree(world: World, clip: float) -> dict[str, Any]:
    """Every stage in fp32."""
    figures = {}
    for stage in range(4):
        engine = engine_of(stage, "fp32", world, clip)
        figures[str(stage)] = trained(engine, world) | {"weights": weights_of(engine)}
    return figures


def skip(world: World, clip: float, bad_step: int) -> dict[str, Any]:
    """Every stage and number format, with a bad sample on the last rank."""
    figures: dict[str, Any] = {}
    for name in ("0", "1", "2", "3", "1b", "2b", "3b"):
        engine = engine_of(int(name[0]), "bf16" if name[1:] else "fp32", world, clip)
        seen: dict[str, Any] = {**trained(engine, world, bad_rank=world.size - 1, bad_step=bad_step)}
        seen["weights"] = weights_of(engine)
        with engine.average.in_place():  # type: ignore[union-attr]
            seen["average"] = weights_of(engine)
        figures[name] = seen
    return figures


def main() -> None:
    """Print the figures of what the first word names."""
    world = read_environment()
    process_group.initialise(world)
    what, clip, *rest = sys.argv[1:]
    print(json.dumps(agree(world, float(clip)) if what == "agree" else skip(world, float(clip), int(rest[0]))))
    process_group.leave()


if __name__ == "__main__":
    main()
