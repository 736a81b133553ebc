"""Runs one task in this process from start to end: process group, data, model, trainer. Heavy imports begin here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nepa_scale.config import validate
from nepa_scale.config.registry import spec
from nepa_scale.config.schema import RunConfig
from nepa_scale.distributed import process_group, processes, rendezvous
from nepa_scale.distributed.failures import Failure, JobFailedError
from nepa_scale.distributed.signals import StopRequest
from nepa_scale.distributed.watchdog import STARTING_PATIENCE, Watchdog
from nepa_scale.distributed.world import World
from nepa_scale.placement.devices import unseen
from nepa_scale.placement.resolved import ResolvedTask, agree, remedy
from nepa_scale.run_dir.status import Status, read_status, write_status
from nepa_scale.utils import errors
from nepa_scale.utils.errors import (
    ConfigError,
    DataLostError,
    DivergedError,
    MilestoneError,
    RankError,
    SaveError,
    UserError,
)
from nepa_scale.utils.progress import logger
from nepa_scale.weights import initial

if TYPE_CHECKING:
    import torch

    from nepa_scale.tasks.task import Task

#: What all ranks raise together; but for ``RankError``, which may be one rank's alone.
MET_BY_ALL = (ConfigError, DataLostError, DivergedError, MilestoneError, SaveError)


def run_task(
    resolved: ResolvedTask, run_dir: Path, world: World, stop: StopRequest, record: Callable[[Failure], None]
) -> None:
    """Run a task to its end or until asked to stop.

    Args:
        record: writes down what ended the job, on rank 0.

    Raises:
        UserError: where all ranks meet the same obstacle together.
        JobFailedError: on every rank, with the job's first failure, which is recorded; the training thread of some
            ranks may not get as far, then the watchdog ends them with the failure's exit code.
    """
    processes.keep_freed_memory()
    task_dir, engine = run_dir / resolved.config.task, resolved.config.engine
    store = process_group.find_ranks(world, engine.rendezvous_seconds)
    watchdog = Watchdog(
        world,
        task_dir,
        timeout_seconds=60 * engine.timeout_minutes,
        store=rendezvous.connect(world, engine.rendezvous_seconds) if world.size > 1 else store,
        record=record,
    )
    watchdog.start()
    try:
        device = process_group.join(world, store, 2 * STARTING_PATIENCE * engine.timeout_minutes)
        _run(resolved, run_dir, world, device, stop, watchdog)
        process_group.barrier()  # heartbeats go on until all are here: rank 0 may have had files to write
    except Exception as error:
        if not isinstance(error, MET_BY_ALL) or isinstance(error, RankError):
            raise JobFailedError(watchdog.fail(error, _described(error, resolved))) from error
        process_group.barrier()
        watchdog.stop()
        process_group.shut_down()
        raise
    watchdog.stop()
    process_group.shut_down()


def _run(
    resolved: ResolvedTask, run_dir: Path, world: World, device: torch.device, stop: StopRequest, watchdog: Watchdog
) -> None:
    import torch

    if device.type == "cuda":  # on a CPU the same call may choose other kernels than plain fp32
        torch.set_float32_matmul_precision("high")

    from nepa_scale.tasks.task import StoppedError
    from nepa_scale.training.trainer import Trainer

    task_dir = run_dir / resolved.config.task
    resolved = _agreed(resolved, task_dir, world, device)
    config = resolved.config
    if world.is_main and validate.is_made_on_demand(config, config.task):
        from nepa_scale.data.prepare.digits import write_digits

        write_digits(Path(config.data.root))
    process_group.barrier()
    if world.is_main and device.type == "cpu" and (unused := unseen()) is not None:
        logger.warning("%s", unused)
    torch.manual_seed(config.seed)
    task = built_task(resolved, run_dir, world, device)
    try:
        trainer = Trainer(task, resolved, task_dir, world=world, device=device, stop=stop, watchdog=watchdog)
    except StoppedError:  # while the task looked through its data
        if world.is_main:
            write_status(task_dir, dataclasses.replace(read_status(task_dir) or Status("preempted"), state="preempted"))
        return
    trainer.run()


def _described(error: Exception, resolved: ResolvedTask) -> str:
    """What people and ``status.json`` are told of an exception."""
    if isinstance(error, UserError):
        return str(error)
    first = (str(error).strip().splitlines() or [""])[0]
    if errors.is_out_of_memory(error):
        return f"oom: {first}; {remedy(resolved)}"
    return f"{type(error).__name__}: {first}"


def _agreed(resolved: ResolvedTask, task_dir: Path, world: World, device: torch.device) -> ResolvedTask:
    """The task that all ranks train. Raises ``ConfigError``, on every rank, when the devices cannot do it."""
    if device.type == "cpu" and resolved.config.engine.precision == "fp16":
        raise ConfigError([validate.FP16_NEEDS_GPU])
    resolved = agree(resolved, task_dir, world, device)
    for reason in resolved.placement.reasons if world.is_main else ():
        logger.info("%s: %s", resolved.config.task, reason)
    if resolved.problem is not None and not resolved.config.force:
        raise ConfigError([resolved.problem])
    return resolved


def built_task(resolved: ResolvedTask, run_dir: Path, world: World, device: torch.device) -> Task:
    """The task; under ZeRO-3 on several ranks none of them ever holds all of its weights."""
    config = resolved.config
    if world.size == 1 or resolved.placement.zero_stage < 3:
        return build_task(config, run_dir)
    from nepa_scale.engine import sharded_init

    return sharded_init.build(lambda: build_task(config, run_dir), resolved.deepspeed, world=world, device=device)


def build_task(config: RunConfig, run_dir: Path) -> Task:
    """The task to do, with its module and data. Only that task's modules are imported."""
    weights = initial.initial_weights(run_dir, config)
    other = None if weights is None else initial.other_standardisation(config)
    if other is not None:
        logger.warning("%s", other)
    built: Task = spec(config.task).task_class(config, weights)
    return built
