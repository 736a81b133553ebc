"""The engine as a training builds it, for the benchmarks that take steps without the trainer."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nepa_scale.config.schema import RunConfig
from nepa_scale.distributed.world import World
from nepa_scale.engine.engine import Engine
from nepa_scale.optim.optimizer import NO_LAYER_DECAY, build_optimizer, group_schedules
from nepa_scale.placement import ds_config
from nepa_scale.placement.devices import Placement
from nepa_scale.tasks.next_embedding import NextEmbedding

TOTAL_STEPS = 10**6  # of the schedule: its rate hardly moves while a benchmark runs


def built_engine(
    module: NextEmbedding,
    config: RunConfig,
    placement: Placement,
    world: World,
    device: torch.device,
    *,
    ema_decay: float = 0.0,
) -> Engine:
    """``module`` under DeepSpeed with the optimiser and schedules of ``config``'s pre-training."""
    optimizer = build_optimizer(module, config.pretrain)
    return Engine(
        module,
        optimizer,
        group_schedules(optimizer.param_groups, config.pretrain, TOTAL_STEPS, NO_LAYER_DECAY),
        ds_config.resolve(config, "pretrain", placement),
        world=world,
        device=device,
        ema_decay=ema_decay,
    )
