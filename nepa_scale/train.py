"""Train one task of one run: ``deepspeed nepa_scale/train.py task=pretrain model.size=base ...``.

Plain ``python``, ``torchrun`` and ``srun`` start it as well. Settings are checked before torch is imported; a
finished task is left alone and an interrupted one continues.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

if __name__ == "__main__":
    # Run as a script, Python looks for imports in this file's folder; look in the checkout it belongs to instead.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from nepa_scale.config import learning_rate, overrides, validate
from nepa_scale.config.data_facts import exhausted_classes
from nepa_scale.config.registry import spec
from nepa_scale.config.schema import RunConfig
from nepa_scale.distributed.failures import ExitCode, Failure, JobFailedError, exit_code
from nepa_scale.distributed.process_group import leave
from nepa_scale.distributed.signals import StopRequest
from nepa_scale.distributed.watchdog import leave_at_once
from nepa_scale.distributed.world import World, read_environment
from nepa_scale.placement import ds_config
from nepa_scale.placement.devices import has_gpu, unseen
from nepa_scale.placement.planner import describe as placement_lines
from nepa_scale.placement.resolved import ResolvedTask, resolve
from nepa_scale.run_dir import run_folder
from nepa_scale.run_dir.status import Status, exclusive, read_status, write_status
from nepa_scale.utils import callable_module, cli, progress, user_folder
from nepa_scale.utils.errors import ConfigError, DataLostError, RankError, UserError
from nepa_scale.utils.progress import reporting
from nepa_scale.weights import initial


def main(words: list[str]) -> int:
    """Do what ``words`` ask; returns the exit code, one of ``ExitCode``."""
    world = World()
    try:
        words = user_folder.take(words)
        if cli.answers(words, lambda _: overrides.help_text()):
            return ExitCode.DONE
        words, as_json = cli.take_switch(overrides.spell(words), "json")
        world = read_environment()
        config = run_folder.configure(words)
        run_dir = run_folder.run_directory(config)
        resolved = check(config, run_dir, world)
        if as_json and not config.dry_run:
            raise UserError("json=true: of a training there is only its plan as JSON; give dry_run=true, too")
        if not config.dry_run:
            return start(words, resolved, run_dir, world)
        if world.is_main and as_json:
            cli.print_json(document(resolved, run_dir))
        elif world.is_main:
            print(describe(resolved, run_dir))
        return ExitCode.DONE
    except (UserError, OSError, UnicodeEncodeError) as error:
        lines = cli.mistake_lines(error)
        if not lines:
            raise
        _tell("\n".join(lines), world, alone=isinstance(error, RankError))
        return exit_code(error) if isinstance(error, UserError) else ExitCode.USER_ERROR


def check(config: RunConfig, run_dir: Path, world: World) -> ResolvedTask:
    """The task as it will be trained. Raises ``ConfigError`` with everything that can be wrong before work starts."""
    problems = [
        *validate.check_data(config, (config.task,), planning=config.dry_run),
        *validate.check_milestones(config, (config.task,)),
        *validate.check_unused(config, tuple({config.task}.difference(run_folder.begun_tasks(run_dir)))),
        *validate.check_batches(config, (config.task,), world.size),
        *run_folder.check_directory(run_dir, config),
    ]
    problems += [*ds_config.check(config, config.task), *learning_rate.branch_problems(config)]
    if config.engine.precision == "fp16" and not (has_gpu() or config.dry_run):
        problems.append(validate.FP16_NEEDS_GPU)
    if not _awaits_pretraining(config):
        problems += initial.check_start(run_dir, config)
    if problems:
        raise ConfigError(problems)
    resolved = resolve(config, run_dir / config.task, world)
    alone = world.size == 1 and not (config.dry_run or config.force)  # several ranks compare their memory first
    problems += [resolved.problem] if alone and resolved.problem is not None else []
    problems += run_folder.check_data(run_dir / config.task, config)
    if not (problems or config.dry_run):
        with reporting() as report:  # on every rank: any of them may be the one that makes the index
            problems += validate.check_contents(config, (config.task,), report)
    if problems:
        raise ConfigError(problems)
    return resolved


def _awaits_pretraining(config: RunConfig) -> bool:
    """Whether this is a dry run of a task whose own pre-training may still be to come."""
    return config.dry_run and config.start == "pretrain" and config.pretrain_dir is None


def describe(resolved: ResolvedTask, run_dir: Path) -> str:
    """What the task would do and cost."""
    config, cost = resolved.config, resolved.cost
    rates = None if spec(config.task).downstream else learning_rate.describe(config)
    return "\n".join(
        [
            f"{config.task} of run {config.run_id} in {run_dir}",
            f"data set     {validate.describe_data(config)}",
            f"parameters   {cost.params_total:,} ({cost.params_backbone:,} in the blocks and final norm)",
            f"steps        {cost.steps:,} of {config.task_config().batch_size} images"
            f" ({cost.images_seen:,} seen, {cost.unique_images:,} different)",
            *([f"learning rate {rates}"] if rates is not None else []),
            f"FLOPs        {cost.flops_train:.3g} useful, {cost.flops_executed:.3g} executed",
            *placement_lines(resolved.placement, resolved.device),
            *filter(None, [exhausted_classes(config, config.task)]),
            *(f"warning: {problem}" for problem in doubts(resolved, run_dir)),
        ]
    )


def doubts(resolved: ResolvedTask, run_dir: Path) -> list[str]:
    """What keeps the task from starting here, or makes it doubtful; a line each."""
    config = resolved.config
    awaited = initial.check_start(run_dir, config) if _awaits_pretraining(config) else []
    return [*awaited, *filter(None, [resolved.problem, unseen()])]


def document(resolved: ResolvedTask, run_dir: Path) -> dict[str, Any]:
    """The same for scripts."""
    config, placement = resolved.config, resolved.placement
    return {
        "run_id": config.run_id,
        "run_dir": str(run_dir),
        "task": config.task,
        "data_set": config.task_config().dataset,
        "cost": dataclasses.asdict(resolved.cost),
        "placement": dataclasses.asdict(placement) | {"fits": placement.fits, "memory_source": resolved.device.source},
        "warnings": doubts(resolved, run_dir),
    }


def start(words: list[str], resolved: ResolvedTask, run_dir: Path, world: World) -> int:
    """Run the task in this process, or find that there is nothing to do."""
    task_dir = run_dir / resolved.config.task
    if run_folder.is_finished(task_dir):
        if world.is_main:
            print(f"{task_dir}: already finished")
        return ExitCode.DONE
    if not world.is_main:
        return _train(resolved, run_dir, world)
    with exclusive(task_dir):
        config = run_folder.begin(words, run_dir)
        if config != resolved.config:  # another task of the run has begun meanwhile
            resolved = resolve(config, task_dir, world)
        return _train(resolved, run_dir, world)


def _train(resolved: ResolvedTask, run_dir: Path, world: World) -> int:
    stop = StopRequest()  # before the slow imports: a signal during them is honoured too
    config, task_dir = resolved.config, run_dir / resolved.config.task
    if world.is_main:
        progress.start_logging(task_dir)
        progress.logger.info("%s: data set %s", config.task, validate.describe_data(config))

    def record(failure: Failure) -> None:
        _mark_failed(task_dir, failure.described(world), failure.step)
        if failure.rank != world.rank:
            progress.logger.error("%s", failure.described(world))

    try:
        from nepa_scale.training.runner import run_task

        run_task(resolved, run_dir, world, stop, record)
    except UserError as error:
        if world.is_main:
            _mark_failed(task_dir, f"data: {error}" if isinstance(error, DataLostError) else str(error))
        raise
    except JobFailedError as error:
        if error.failure.rank == world.rank and not isinstance(error.__cause__, UserError):
            progress.logger.error("%s", "".join(traceback.format_exception(error.__cause__)))
        _tell(error.failure.described(world), world)
        return error.failure.code
    return ExitCode.DONE


def _mark_failed(task_dir: Path, error: str, step: int = 0) -> None:
    try:
        if run_folder.is_finished(task_dir):  # only its pictures were still to be drawn
            return
        before = read_status(task_dir) or Status("running")
        failed = Status("failed", max(step, before.step), before.steps_total, before.attempt, error.splitlines()[0])
        write_status(task_dir, failed)
    except OSError as mishap:  # what ended the task is what is told
        progress.logger.error("%s: status.json cannot be updated to 'failed': %s", task_dir, mishap.strerror)


def _tell(text: str, world: World, *, alone: bool = False) -> None:
    """Print an error once on every machine; where a rank is ``alone`` with it, that rank does."""
    if world.local_rank == 0 or alone:
        prefix = "error: " if world.is_main else f"error: {socket.gethostname()}, rank {world.rank}: "
        for line in text.splitlines():
            print(prefix + line, file=sys.stderr)


def command_line() -> NoReturn:
    """Run the command and leave: a failed job's libraries may wait for ranks that are gone, so they are not asked."""
    code: int | str | None
    cli.prepare_output()
    try:
        code = main(sys.argv[1:])
    except KeyboardInterrupt:  # before there was anything to save
        code = 128 + signal.SIGINT
    except SystemExit as error:  # the second Ctrl-C
        code = error.code
    if isinstance(code, int) and code and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        leave_at_once(code)
    if code == ExitCode.DONE and "torch" in sys.modules:
        leave()
    sys.exit(code)


if __name__ == "__main__":
    command_line()
else:
    callable_module(__name__, "nepa_scale.api:train")
