"""Train one task of one run: ``deepspeed nepa_scale/train.py task=pretrain model.size=base ...``.

Plain ``python``, ``torchrun`` and ``srun`` start it as well. Settings are checked before torch is imported; a
finished task is left alone and an interrupted one continues.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

if __name__ == "__main__":
    # Run as a script, Python looks for imports in this file's folder; look in the checkout it belongs to instead.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from nepa_scale import checks, ds_config, overrides, progress, runs
from nepa_scale.config import RunConfig
from nepa_scale.costs import task_cost
from nepa_scale.data.reporting import reporting
from nepa_scale.device_memory import has_gpu, planned
from nepa_scale.distributed import World, read_environment
from nepa_scale.errors import ConfigError, DataLostError, DivergedError, UserError
from nepa_scale.placement import describe as placement_lines
from nepa_scale.placement import place
from nepa_scale.signals import StopRequest
from nepa_scale.status import Status, read_status, write_status

EXIT_FAILURE, EXIT_USER_ERROR, EXIT_DATA_LOST = 1, 2, 3


def main(words: list[str]) -> int:
    """Do what ``words`` ask; returns the exit code: 0 done or stopped on request, 1 failure, 2 a user's mistake,
    3 the data cannot be read any more (what was trained is saved)."""
    if {"--help", "-h"} & set(words):
        print(overrides.help_text("deepspeed nepa_scale/train.py"))
        return 0
    world = World()
    try:
        world = read_environment()
        config = overrides.parse(words)
        run_dir = runs.run_directory(config)
        check(config, run_dir, world)
        if config.dry_run:
            print(describe(config, run_dir, world))
            return 0
        return start(config, run_dir, world)
    except UserError as error:
        if world.is_main:
            for line in str(error).splitlines():
                print(f"error: {line}", file=sys.stderr)
        return EXIT_DATA_LOST if isinstance(error, DataLostError) else EXIT_USER_ERROR


def check(config: RunConfig, run_dir: Path, world: World) -> None:
    """Everything that can be wrong before work starts. Raises ``ConfigError`` with all of it."""
    problems = [
        *checks.check_data(config, (config.task,)),
        *checks.check_batches(config, (config.task,), world.size),
        *runs.check_directory(run_dir, config),
    ]
    problems += ds_config.check(config, config.task)
    if config.engine.precision == "fp16" and not (has_gpu() or config.dry_run):
        problems.append(checks.FP16_NEEDS_GPU)
    if not config.dry_run:
        problems += runs.check_start(run_dir, config)
    if not problems:
        problems += _placement_problems(config, world)
        problems += runs.check_data(run_dir / config.task, config)
    if not (problems or config.dry_run):
        with reporting() as report:  # on every rank: any of them may be the one that makes the index
            problems += checks.check_contents(config, (config.task,), report)
    if problems:
        raise ConfigError(problems)


def _placement_problems(config: RunConfig, world: World) -> list[str]:
    """What keeps the task from being placed. Several ranks compare their memory first, once they are connected."""
    placement = place(config, config.task, world.size, planned(config, world))
    try:
        ds_config.resolve(config, config.task, placement)
    except ConfigError as error:
        return error.problems
    alone = world.size == 1 and not (config.dry_run or config.force)
    return [f"{config.task}: {placement.problem}"] if alone and placement.problem is not None else []


def describe(config: RunConfig, run_dir: Path, world: World) -> str:
    """What the task would do and cost."""
    device = planned(config, world)
    placement = place(config, config.task, world.size, device)
    cost = task_cost(config, config.task, activation_checkpointing=placement.activation_checkpointing)
    return "\n".join(
        [
            f"{config.task} of run {config.run_id} in {run_dir}",
            f"parameters   {cost.params_total:,} ({cost.params_backbone:,} in the blocks and final norm)",
            f"steps        {cost.steps:,} of {config.task_config().batch_size} images"
            f" ({cost.images_seen:,} seen, {cost.unique_images:,} different)",
            f"FLOPs        {cost.flops_train:.3g} useful, {cost.flops_executed:.3g} executed",
            *placement_lines(placement, device),
            *([] if placement.problem is None else [f"warning: {config.task}: {placement.problem}"]),
        ]
    )


def start(config: RunConfig, run_dir: Path, world: World) -> int:
    """Run the task in this process, or find that there is nothing to do."""
    task_dir = run_dir / config.task
    if runs.is_finished(task_dir):
        if world.is_main:
            print(f"{task_dir}: already finished")
        return 0
    if not world.is_main:
        return _train(config, run_dir, world)
    with runs.exclusive(task_dir):
        if not (run_dir / "config.yaml").is_file():
            overrides.save(config, run_dir / "config.yaml")
        runs.record_data(task_dir, config)
        return _train(config, run_dir, world)


def _train(config: RunConfig, run_dir: Path, world: World) -> int:
    stop = StopRequest()  # before the slow imports: a signal during them is honoured too
    task_dir = run_dir / config.task
    if world.is_main:
        progress.start_logging(task_dir)
    try:
        from nepa_scale.session import run_task

        run_task(config, run_dir, world, stop)
    except UserError as error:
        kind = "data: " if isinstance(error, DataLostError) else "nan: " if isinstance(error, DivergedError) else ""
        _mark_failed(task_dir, world, f"{kind}{error}")
        raise
    except Exception as error:
        _mark_failed(task_dir, world, f"{type(error).__name__}: {error}")
        progress.logger.error("%s", traceback.format_exc())
        return EXIT_FAILURE
    return 0


def _mark_failed(task_dir: Path, world: World, error: str) -> None:
    if world.is_main:
        before = read_status(task_dir) or Status("running")
        failed = Status("failed", before.step, before.steps_total, before.attempt, error.splitlines()[0])
        write_status(task_dir, failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
