"""What a pre-training under way is expected to end with: its loss along the planned learning rate, and its skill
through the loss.

``1 + loss`` of the logged steps is continued by the law of a schedule (``scheduled``). Skill is measured in evaluations
only, too few to fit a law to, so it follows from the loss: the shortfall 1 - skill over 1 + loss is taken to stay at
what the last evaluation found, and to wander from there as it did between evaluations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from analysis.fit.student import NoFit
from analysis.forecast.estimate import CONFIDENCE
from analysis.forecast.schedule import read_planned
from analysis.forecast.scheduled import forecast_scheduled
from analysis.laws.law import Array
from analysis.study.metrics_file import Line, read_metrics
from nepa_scale.utils import yaml_files
from nepa_scale.utils.errors import UserError

FEWEST_EVALUATIONS = 3
WINDOW = 0.02
"""The loss at an evaluation is the mean of the logged steps before it, over this share of all steps."""
METRICS = ("loss", "lr", "eval_skill")
EMPTY = Line(*(np.array([]) for _ in range(3)))


@dataclass(frozen=True)
class Expected:
    """A value that is to come, with its interval."""

    value: float
    low: float
    high: float
    confidence: float = CONFIDENCE

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} .. {self.high:.3f})"


@dataclass(frozen=True)
class Ending:
    """What a pre-training is expected to end with: its training loss and its skill, or why neither can be told yet."""

    loss: Expected | NoFit
    skill: Expected | NoFit

    @property
    def in_words(self) -> str:
        """What is expected in a few words; empty where nothing is."""
        both = (("loss", self.loss), ("skill", self.skill))
        return ", ".join(f"{name} {value}" for name, value in both if isinstance(value, Expected))

    def as_json(self) -> dict[str, Any]:
        """As plain data; what is not known has a reason."""
        return {name: _as_json(value) for name, value in (("loss", self.loss), ("skill", self.skill))}


def expected_end(run_dir: Path, steps: int) -> Ending:
    """What the pre-training in ``run_dir``, of ``steps`` steps, is expected to end with, from what it has logged."""
    lines, _ = read_metrics(run_dir / "pretrain" / "metrics.jsonl", METRICS)
    loss, rate, skill = (lines.get(name, EMPTY) for name in METRICS)
    if not len(loss.steps) or not len(rate.steps):
        return _none("no step is logged yet")
    try:
        settings = _settings(run_dir)
        planned = read_planned(f"{settings.get('schedule', 'cosine')}:{steps}")
        rates = np.interp(loss.steps, rate.steps, rate.values)
        of_cosine = _is_cosine(settings)
        above = 1.0 if of_cosine else 0.0  # a cosine is -1 at best, every other loss 0
        answer = forecast_scheduled(loss.steps, above + loss.values, rates, planned=planned, of_one_point=False)
    except UserError as mistake:
        return _none(str(mistake))
    if isinstance(answer, NoFit):
        return Ending(answer, answer)
    y, low, high = (float(ends[0]) for ends in (answer.y, answer.low, answer.high))
    expected = Expected(y - above, low - above, high - above)
    if not of_cosine or settings.get("sigreg"):
        return Ending(expected, NoFit("the skill is forecast of a loss that is the cosine alone"))
    return Ending(expected, _skill(loss, skill, steps, np.log([y, low, high])))


def _settings(run_dir: Path) -> Mapping[str, Any]:
    """The run's settings of pre-training. Raises ``UserError``."""
    settings = yaml_files.read(run_dir / "config.yaml", lambda _: ()).get("pretrain")
    return settings if isinstance(settings, dict) else {}


def _is_cosine(settings: Mapping[str, Any]) -> bool:
    asked = settings.get("objective", "next_embedding"), settings.get("distance", "cosine")
    return asked == ("next_embedding", "cosine")


def _none(reason: str) -> Ending:
    return Ending(NoFit(reason), NoFit(reason))


def _skill(loss: Line, skill: Line, steps: int, log_end: Array) -> Expected | NoFit:
    """The skill at the end, from the log of 1 + loss there and of the ends of its interval [3]."""
    known = np.isfinite(skill.values) & (skill.values < 1)
    at, shortfall = skill.steps[known], 1 - skill.values[known]
    if len(at) < FEWEST_EVALUATIONS:
        return NoFit(f"{len(at)} evaluations; a forecast of the skill needs {FEWEST_EVALUATIONS}")
    ratio = np.log(shortfall / np.array([_mean_before(loss, step, WINDOW * steps) for step in at]))
    wander = np.mean(np.diff(ratio) ** 2 / np.diff(at)) * (steps - at[-1])
    half = special.stdtrit(len(at) - 1, 0.5 + CONFIDENCE / 2) * np.sqrt(wander)
    middle, low, high = log_end
    ends = middle + ratio[-1] + np.array([0.0, -np.hypot(middle - low, half), np.hypot(high - middle, half)])
    if not np.isfinite(ends).all():
        return NoFit("the logged losses do not reach the evaluations")
    value, most, least = 1 - np.exp(ends)
    return Expected(float(value), float(least), float(most))


def _mean_before(loss: Line, step: float, window: float) -> float:
    """The mean of 1 + loss over the ``window`` of steps up to ``step``, at least over the last one logged."""
    until = int(np.searchsorted(loss.steps, step, side="right"))
    since = min(int(np.searchsorted(loss.steps, step - window, side="right")), max(until - 1, 0))
    return 1 + float(np.nanmean(loss.values[since : max(until, 1)]))


def _as_json(value: Expected | NoFit) -> dict[str, Any]:
    if isinstance(value, NoFit):
        return {"reason": value.reason}
    return {"value": value.value, "interval": [value.low, value.high], "confidence": value.confidence}
