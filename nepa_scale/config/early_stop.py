"""Milestones: what a task must have reached by a stated step, or it ends there as failed and is never a data point.

Free of torch: a milestone that cannot be judged is reported before work starts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from nepa_scale.config.schema import RunConfig
from nepa_scale.config.step_sets import StepSet, every
from nepa_scale.config.task_settings import ProbeConfig, TaskConfig
from nepa_scale.utils.errors import nearest

EXAMPLE = "'{2000: {skill: 0.1}}'"
LOGGED = "eval_"  # before a measure's name in a row of the log
AVERAGE = "ema_"
LOWER_IS_BETTER = ("loss",)
KNN = "knn_top1"  # of pre-training, which measures it only where a milestone names it: it needs labels

#: Measures of each task that tell a good run from a bad one; the others describe it or its data.
MEASURES: dict[str, tuple[str, ...]] = {
    "pretrain": ("skill", "cosine", "loss", "effective_rank_embeddings", "effective_rank_outputs", KNN),
    "probe": ("loss", "linear_last", "linear_mean"),
    "classify": ("top1", "top5", "loss"),
    "segment": ("miou", "pixel_accuracy", "mean_accuracy", "loss"),
}

Goals = dict[int, dict[str, float]]


class Milestones:
    """The milestones of one task while it runs: each is judged once, by the first evaluation at or after its step."""

    def __init__(self, key: str, text: str | None) -> None:
        """``key`` is the setting that ``text`` was given for. Raises ``ValueError`` where it is no milestones."""
        self._key, self._open = key, parse(text)
        self.steps = frozenset(self._open)

    def are_due(self, step: int) -> bool:
        """Whether an evaluation after ``step`` would have a milestone to judge."""
        return any(due <= step for due in self._open)

    def recall(self, rows: Iterable[Mapping[str, Any]]) -> str | None:
        """Judge what the evaluations on record can judge; rows come in the order of their steps."""
        for row in rows:
            figures = {key.removeprefix(LOGGED): value for key, value in row.items() if key.startswith(LOGGED)}
            verdict = self.judge(row["step"], figures) if figures else None
            if verdict is not None:
                return verdict
        return None

    def judge(self, step: int, figures: Mapping[str, float]) -> str | None:
        """Hold the evaluation after ``step`` against the milestones that are due; returns what was missed, or None.

        One of nearest neighbours waits for an evaluation that has their vote: of those on record, from before it was
        set, none has.
        """
        due = sorted(each for each, goals in self._open.items() if each <= step and _voted(goals, figures))
        for goals in (self._open.pop(each) for each in due):
            for name, goal in goals.items():
                value = figures.get(name, math.nan)
                if not _met(name, value, goal):
                    limit = "at most" if _falls(name) else "at least"
                    return f"milestone: {name} is {value:.4g} after step {step}, not {limit} {goal:g} ({self._key})"
        return None


def parse(text: str | None) -> Goals:
    """``{step: {measure: value}}`` from its text, in YAML. Raises ``ValueError`` saying what is wrong with it."""
    if text is None:
        return {}
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"not valid YAML; write it as {EXAMPLE}") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(f"expected steps with their measures, as {EXAMPLE}")
    return {_step(step): _goals(step, goals) for step, goals in content.items()}


def problems(config: RunConfig, task: str) -> list[str]:
    """What is wrong with the milestones of ``task``, whatever its data set."""
    section = config.task_config(task)
    key, valid = f"{task}.milestones", measures(section, task)
    try:
        goals = parse(section.milestones)
    except ValueError as error:
        return [f"{key}={section.milestones}: {error}"]
    wanted = dict.fromkeys(name for each in goals.values() for name in each)
    if task == "pretrain" and config.data.streaming and asks_for_knn(section):
        return [f"{key}: {KNN} reads by index; give data.streaming=false or another measure"]
    return [
        f"{key}: no measure '{name}' of {task}{nearest(name, valid)} (there are: {', '.join(valid)})"
        for name in wanted
        if name not in valid
    ]


def beyond(section: TaskConfig, task: str, total_steps: int) -> list[str]:
    """Milestones after the last step, which would never be judged."""
    return [
        f"{task}.milestones: step {step} lies beyond the {total_steps} steps of this task"
        for step in parse(section.milestones)
        if step > total_steps
    ]


def measures(section: TaskConfig, task: str) -> list[str]:
    """The names that milestones of a task with these settings may use."""
    names = list(MEASURES[task])
    if isinstance(section, ProbeConfig):
        names += ["attentive"] if section.attentive else []
        names += ["knn_last", "knn_mean"] if section.knn_neighbours else []
    return names + [AVERAGE + name for name in names if section.ema_decay]


def asks_for_knn(section: TaskConfig) -> bool:
    """Whether a milestone of pre-training with these settings is about its nearest neighbours."""
    return any(name.removeprefix(AVERAGE) == KNN for goals in parse(section.milestones).values() for name in goals)


def evaluation_steps(section: TaskConfig, total_steps: int) -> StepSet:
    """The steps before the last after which a task with these settings is evaluated, regularly or for a milestone."""
    return every(section.eval_every, total_steps - 1) | StepSet(
        total_steps - 1, others=frozenset(parse(section.milestones))
    )


def _voted(goals: Mapping[str, float], figures: Mapping[str, float]) -> bool:
    return all(name in figures for name in goals if name.removeprefix(AVERAGE) == KNN)


def _met(name: str, value: float, goal: float) -> bool:
    return value <= goal if _falls(name) else value >= goal


def _falls(name: str) -> bool:
    return name.removeprefix(AVERAGE) in LOWER_IS_BETTER


def _step(step: Any) -> int:
    if isinstance(step, bool) or not isinstance(step, int) or step < 1:
        raise ValueError(f"step {step}: must be a whole number from 1 on, as in {EXAMPLE}")
    return step


def _goals(step: int, goals: Any) -> dict[str, float]:
    if not isinstance(goals, dict) or not goals:
        raise ValueError(f"step {step}: expected measures with their values, as in {EXAMPLE}")
    return {str(name): _value(step, name, value) for name, value in goals.items()}


def _value(step: int, name: Any, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # YAML reads 1e-3 as a text
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"step {step}: {name}={value}: must be a finite number")
    return number
