"""One task in this process from start to end: process group, data, model, trainer. Heavy imports begin here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nepa_scale import checks, distributed, ds_config, runs
from nepa_scale.config import RunConfig
from nepa_scale.distributed import World
from nepa_scale.errors import DataLostError
from nepa_scale.signals import StopRequest

if TYPE_CHECKING:
    import torch

    from nepa_scale.tasks.task import Task


def run_task(config: RunConfig, run_dir: Path, world: World, stop: StopRequest) -> None:
    """Run ``config.task`` to its end or until asked to stop."""
    device = distributed.initialise(world)
    import torch

    from nepa_scale.loop import Trainer

    if world.is_main and checks.is_made_on_demand(config, config.task):
        from nepa_scale.data.digits import write_digits

        write_digits(Path(config.data.root))
    distributed.barrier()
    torch.manual_seed(config.seed)
    task = built_task(config, run_dir, world, device)
    try:
        Trainer(task, config, run_dir / config.task, world=world, device=device, stop=stop).run()
    except DataLostError:  # which all ranks raise together, and must leave together
        distributed.shut_down()
        raise
    distributed.shut_down()


def built_task(config: RunConfig, run_dir: Path, world: World, device: torch.device) -> Task:
    """The task; under ZeRO-3 on several ranks none of them ever holds all of its weights."""
    if world.size == 1 or ds_config.zero_stage(config, world.size) < 3:
        return build_task(config, run_dir)
    from nepa_scale import sharded_init

    settings = ds_config.resolve(config, config.task, world_size=world.size, num_params=1)  # for buckets: not yet
    return sharded_init.build(lambda: build_task(config, run_dir), settings, world=world, device=device)


def build_task(config: RunConfig, run_dir: Path) -> Task:
    """The task to do, with its module and data. Only that task's modules are imported."""
    weights = runs.initial_weights(run_dir, config)
    if config.task == "pretrain":
        from nepa_scale.tasks.pretrain import Pretrain

        return Pretrain(config)
    if config.task == "probe":
        from nepa_scale.tasks.probe import Probe

        return Probe(config, weights)
    if config.task == "classify":
        from nepa_scale.tasks.classify import Classify

        return Classify(config, weights)
    from nepa_scale.tasks.segment import Segment

    return Segment(config, weights)
