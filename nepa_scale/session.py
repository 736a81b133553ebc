"""One task in this process from start to end: process group, data, model, trainer. Heavy imports begin here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nepa_scale import allocator, checks, distributed, runs
from nepa_scale.config import RunConfig
from nepa_scale.distributed import World
from nepa_scale.errors import DataLostError
from nepa_scale.signals import StopRequest

if TYPE_CHECKING:
    from nepa_scale.tasks.task import Task


def run_task(config: RunConfig, run_dir: Path, world: World, stop: StopRequest) -> None:
    """Run ``config.task`` to its end or until asked to stop."""
    allocator.keep_freed_memory()
    device = distributed.initialise(world)
    import torch

    if device.type == "cuda":  # on a CPU the same call may choose other kernels than plain fp32
        torch.set_float32_matmul_precision("high")

    from nepa_scale.loop import Trainer

    if world.is_main and checks.is_made_on_demand(config, config.task):
        from nepa_scale.data.digits import write_digits

        write_digits(Path(config.data.root))
    distributed.barrier()
    torch.manual_seed(config.seed)
    task = build_task(config, run_dir)
    try:
        Trainer(task, config, run_dir / config.task, world=world, device=device, stop=stop).run()
    except DataLostError:  # which all ranks raise together, and must leave together
        distributed.shut_down()
        raise
    distributed.shut_down()


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
