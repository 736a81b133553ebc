"""The short training that stands for a task while its time is measured."""

from __future__ import annotations

import dataclasses

from nepa_scale.config.early_stop import KNN, asks_for_knn
from nepa_scale.config.schema import RunConfig
from nepa_scale.config.task_settings import PretrainConfig
from sweeps.calibrate.shapes import Shape
from sweeps.plan.measured_times import evaluates
from sweeps.plan.timing import ShortRun

TARGET_SECONDS = 2.0
SHORTEST, LONGEST = 5, 40


def short_run(shape: Shape, step_seconds: float | None) -> ShortRun:
    """A run whose steps that count take the target's time, within bounds, if one takes ``step_seconds``."""
    wanted = round(TARGET_SECONDS / 3 / step_seconds) if step_seconds else 2 * SHORTEST
    return ShortRun(max(SHORTEST, min(LONGEST, wanted)), evaluates(shape.config.task_config(shape.task)))


def short_config(config: RunConfig, task: str, run: ShortRun) -> RunConfig:
    """``config`` cut down to ``run`` of ``task`` alone, from random weights unless it starts from finished ones."""
    section = config.task_config(task)
    asked = task == "pretrain" and asks_for_knn(section)
    section = dataclasses.replace(
        section,
        steps=run.steps,
        epochs=None,
        eval_every=run.evaluate_every,
        milestones=f"{{{run.steps}: {{{KNN}: 0.0}}}}" if asked else None,  # measured by evaluations, always reached
    )
    if isinstance(section, PretrainConfig):
        section = dataclasses.replace(section, stop_on_collapse=False)
    saving = dataclasses.replace(config.checkpoint, every=run.save_every, keep_steps=None, branch_from=None)
    return dataclasses.replace(
        config,
        task=task,
        init="scratch" if config.init == "pretrain" and task != "pretrain" else config.init,
        pretrain_dir=None,
        checkpoint=saving,
        log=dataclasses.replace(config.log, every=run.log_every),
        **{task: section},  # type: ignore[arg-type]
    )
