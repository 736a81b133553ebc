"""Early stopping by milestones: a task that has not reached a stated metric by a stated step ends there as failed.

Also the sets of steps after which a task is evaluated or saved. Free of torch: a milestone that cannot be judged is
reported before work starts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from nepa_scale.config.registry import lower_is_better, spec
from nepa_scale.config.schema import RunConfig
from nepa_scale.config.task_settings import TaskConfig
from nepa_scale.utils.errors import nearest

EXAMPLE = "'{2000: {skill: 0.1}}'"
LOGGED = "eval_"  # before a measure's name in a row of the log
AVERAGE = "ema_"
KNN = "knn_top1"  # of pre-training, which measures it only where a milestone names it: it needs labels

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
            metrics = {key.removeprefix(LOGGED): value for key, value in row.items() if key.startswith(LOGGED)}
            verdict = self.judge(row["step"], metrics) if metrics else None
            if verdict is not None:
                return verdict
        return None

    def judge(self, step: int, metrics: Mapping[str, float]) -> str | None:
        """Hold the evaluation after ``step`` against the milestones that are due; returns what was missed, or None.

        One of nearest neighbours waits for an evaluation that has their vote: of those on record, from before it was
        set, none has.
        """
        due = sorted(at for at, goals in self._open.items() if at <= step and _voted(goals, metrics))
        for goals in map(self._open.pop, due):
            for name, goal in goals.items():
                value = metrics.get(name, math.nan)
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
    named = dict.fromkeys(name for step_goals in goals.values() for name in step_goals)
    if KNN in valid and config.data.streaming and asks_for_knn(section):
        return [f"{key}: {KNN} reads by index; give data.streaming=false or another measure"]
    return [
        f"{key}: no measure '{name}' of {task}{nearest(name, valid)} (there are: {', '.join(valid)})"
        for name in named
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
    judged = (metric for metric in spec(task).metrics if metric.judged)
    names = [metric.key for metric in judged if metric.requires is None or getattr(section, metric.requires)]
    return names + [AVERAGE + name for name in names if section.ema_decay]


def asks_for_knn(section: TaskConfig) -> bool:
    """Whether a milestone of pre-training with these settings is about its nearest neighbours."""
    return any(name.removeprefix(AVERAGE) == KNN for goals in parse(section.milestones).values() for name in goals)


def evaluation_steps(section: TaskConfig, total_steps: int) -> StepSet:
    """The steps before the last after which a task with these settings is evaluated, regularly or for a milestone."""
    return every(section.eval_every, total_steps - 1) | StepSet(
        total_steps - 1, others=frozenset(parse(section.milestones))
    )


def _voted(goals: Mapping[str, float], metrics: Mapping[str, float]) -> bool:
    return all(name in metrics for name in goals if name.removeprefix(AVERAGE) == KNN)


def _met(name: str, value: float, goal: float) -> bool:
    return value <= goal if _falls(name) else value >= goal


def _falls(name: str) -> bool:
    return lower_is_better(name.removeprefix(AVERAGE))


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


@dataclass(frozen=True)
class StepSet:
    """The steps from 1 to ``last`` that are a multiple of one of the ``periods``, or among the ``others``."""

    last: int
    periods: frozenset[int] = frozenset()
    others: frozenset[int] = frozenset()

    def __contains__(self, step: int) -> bool:
        return 1 <= step <= self.last and (step in self.others or self._is_regular(step))

    def __or__(self, other: StepSet) -> StepSet:
        """The steps of either. Raises ``ValueError`` unless both have the same ``last``."""
        if self.last != other.last:
            raise ValueError(f"sets of steps up to {self.last} and up to {other.last}")
        return StepSet(self.last, self.periods | other.periods, self.others | other.others)

    def count(self, after: int = 0) -> int:
        """How many steps of the set come after the step ``after``."""
        return self._up_to(self.last) - self._up_to(min(after, self.last))

    def _is_regular(self, step: int) -> bool:
        return any(step % period == 0 for period in self.periods)

    def _up_to(self, step: int) -> int:
        """How many steps of the set are at most ``step``: multiples by inclusion and exclusion, then the others."""
        groups = (
            group
            for size in range(1, len(self.periods) + 1)
            for group in itertools.combinations(sorted(self.periods), size)
        )
        multiples = sum((-1) ** (len(group) + 1) * (step // math.lcm(*group)) for group in groups)
        return multiples + sum(1 <= other <= step and not self._is_regular(other) for other in self.others)


def every(period: int, last: int) -> StepSet:
    """Every ``period``-th step up to ``last``; none where ``period`` is 0."""
    return StepSet(last, frozenset({period} if period else ()))
