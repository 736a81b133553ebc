"""How the time of a task is spent, from the records that the trainer writes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from nepa_scale.config.early_stop import evaluation_steps
from nepa_scale.config.schema import RunConfig
from nepa_scale.placement.costs import saved_steps
from nepa_scale.utils.files import read_json


class Counts(NamedTuple):
    """How many steps, checkpoints and evaluations a task does."""

    steps: int
    saves: int
    evaluations: int


@dataclass(frozen=True)
class Timing:
    """Seconds of each part of a task.

    Attributes:
        startup: from the start of the process to its first step, and the extra time of the first steps.
        step: of one step, with its data.
        save: of one checkpoint.
        evaluation: of one evaluation between two steps.
        finish: of what follows the last step: checkpoint, evaluation, weights, pictures, end of the process.
    """

    startup: float
    step: float
    save: float
    evaluation: float
    finish: float

    def seconds(self, counts: Counts) -> float:
        """Time of a task with these counts."""
        between = counts.steps * self.step + counts.saves * self.save + counts.evaluations * self.evaluation
        return self.startup + between + self.finish

    def scaled(self, factor: float) -> Timing:
        """The timing of a task whose steps do ``factor`` times as much work."""
        return dataclasses.replace(self, step=self.step * factor, evaluation=self.evaluation * factor)


@dataclass(frozen=True)
class ShortRun:
    """A training from which the time of each part can be told: six intervals of the log, of ``log_every`` steps each.

    The first is warm-up. A checkpoint follows the third and makes the fourth longer. If the task ``evaluates`` before
    its end, an evaluation and another checkpoint follow the fourth; in a probe that evaluation includes the nearest
    neighbours. The second, third and sixth are steps only.
    """

    log_every: int
    evaluates: bool

    @property
    def steps(self) -> int:
        """Its length."""
        return 6 * self.log_every

    @property
    def save_every(self) -> int:
        """Steps between checkpoints."""
        return 3 * self.log_every

    @property
    def evaluate_every(self) -> int:
        """Steps between evaluations; 0 = only at the end."""
        return 4 * self.log_every if self.evaluates else 0

    def timing(self, task_dir: Path, seconds: float | None = None) -> Timing:
        """The timing of such a run in ``task_dir``. Raises ``ValueError`` for any other run.

        ``seconds``: the lifetime of its process; without it, what follows the result is left out.
        """
        result = read_json(task_dir / "result.json")
        records = [json.loads(line) for line in (task_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        records = [record for record in records if "images_per_second" in record]
        if [record["step"] for record in records] != [self.log_every * number for number in range(1, 7)]:
            raise ValueError(f"{task_dir}: not the record of a calibration")
        training = [_training_seconds(record, self.log_every) for record in records]
        step = fmean(training[number] for number in (1, 2, 5)) / self.log_every
        plain = step * self.log_every
        saving = training[3:5] if self.evaluates else training[3:4]
        between = records[4]["elapsed_seconds"] - records[3]["elapsed_seconds"] - training[4]
        started = result["startup_seconds"] or 0.0
        life = started + result["wall_seconds"] if seconds is None else seconds
        return Timing(
            startup=started + max(0.0, training[0] - plain) + records[0]["elapsed_seconds"] - training[0],
            step=step,
            save=max(0.0, fmean(saving) - plain),
            evaluation=max(0.0, between),
            finish=max(0.0, life - started - records[5]["elapsed_seconds"]),
        )


def counts(config: RunConfig, task: str, steps: int, start: int = 0) -> Counts:
    """The counts of ``task`` over ``steps`` steps, of which another run has done the first ``start``."""
    saves, evaluations = saved_steps(config, task, steps), evaluation_steps(config.task_config(task), steps)
    return Counts(steps - start, saves.count(after=start), evaluations.count(after=start))


def mean(timings: Sequence[Timing]) -> Timing:
    """The mean of each part."""
    return Timing(*(fmean(getattr(timing, name) for timing in timings) for name in Timing.__dataclass_fields__))


def _training_seconds(record: dict[str, Any], steps: int) -> float:
    """Time of the interval that ended with ``record``, without evaluations."""
    return steps * record["images_seen"] / record["step"] / record["images_per_second"]
