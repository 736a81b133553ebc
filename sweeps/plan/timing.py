"""Where the time of a task goes, read off the records that the trainer itself leaves."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from nepa_scale.checkpoint.storage import saved_steps
from nepa_scale.config.early_stop import evaluation_steps
from nepa_scale.config.schema import RunConfig
from nepa_scale.utils.files import read_json


class Counts(NamedTuple):
    """What a task does between its first and its last step."""

    steps: int
    saves: int
    evaluations: int


@dataclass(frozen=True)
class Timing:
    """Seconds of the parts of a task.

    Attributes:
        startup: from the start of the process to its first step, and what the first steps take longer than others.
        step: of one step, its data included.
        save: of a checkpoint.
        evaluation: of one that comes between two steps.
        finish: of what follows the last step: a checkpoint, an evaluation, weights, pictures, the end of the process.
    """

    startup: float
    step: float
    save: float
    evaluation: float
    finish: float

    def seconds(self, counts: Counts) -> float:
        """Time of a task that does so much."""
        between = counts.steps * self.step + counts.saves * self.save + counts.evaluations * self.evaluation
        return self.startup + between + self.finish

    def scaled(self, factor: float) -> Timing:
        """Of a task whose steps have ``factor`` times as much to do."""
        return dataclasses.replace(self, step=self.step * factor, evaluation=self.evaluation * factor)


@dataclass(frozen=True)
class ShortRun:
    """A training that lets each part be told from the others: six intervals of the log, of ``log_every`` steps.

    The first warms up. A checkpoint comes after the third; the interval after it takes longer by it. After the fourth
    comes an evaluation, with another checkpoint, if the task ``evaluates`` before its end: a probe's first evaluation
    asks the neighbours, too. The second, third and sixth are steps alone.
    """

    log_every: int
    evaluates: bool

    @property
    def steps(self) -> int:
        """Its length."""
        return 6 * self.log_every

    @property
    def save_every(self) -> int:
        """Checkpoints come after so many steps."""
        return 3 * self.log_every

    @property
    def evaluate_every(self) -> int:
        """Evaluations come after so many steps; 0 = only at the end."""
        return 4 * self.log_every if self.evaluates else 0

    def timing(self, task_dir: Path, seconds: float | None = None) -> Timing:
        """What the run in ``task_dir`` says. Raises ``ValueError`` for another run.

        ``seconds``: the whole life of its process; without it what comes after the result is left out.
        """
        result = read_json(task_dir / "result.json")
        rows = [json.loads(line) for line in (task_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        rows = [row for row in rows if "images_per_second" in row]
        if [row["step"] for row in rows] != [self.log_every * number for number in range(1, 7)]:
            raise ValueError(f"{task_dir}: not the record of a calibration")
        training = [_training_seconds(row, self.log_every) for row in rows]
        step = fmean(training[number] for number in (1, 2, 5)) / self.log_every
        plain = step * self.log_every
        saving = training[3:5] if self.evaluates else training[3:4]
        between = rows[4]["elapsed_seconds"] - rows[3]["elapsed_seconds"] - training[4]
        started = result["startup_seconds"] or 0.0
        life = started + result["wall_seconds"] if seconds is None else seconds
        return Timing(
            startup=started + max(0.0, training[0] - plain) + rows[0]["elapsed_seconds"] - training[0],
            step=step,
            save=max(0.0, fmean(saving) - plain),
            evaluation=max(0.0, between),
            finish=max(0.0, life - started - rows[5]["elapsed_seconds"]),
        )


def counts(config: RunConfig, task: str, steps: int, start: int = 0) -> Counts:
    """What ``task`` does of ``steps`` steps, of which another run has done the first ``start``."""
    saves, evaluations = saved_steps(config, task, steps), evaluation_steps(config.task_config(task), steps)
    return Counts(steps - start, saves.count(after=start), evaluations.count(after=start))


def mean(timings: Sequence[Timing]) -> Timing:
    """The mean of each part."""
    return Timing(*(fmean(getattr(each, name) for each in timings) for name in Timing.__dataclass_fields__))


def _training_seconds(row: dict[str, Any], steps: int) -> float:
    """Time of the interval that ended with ``row``, without evaluations."""
    return steps * row["images_seen"] / row["step"] / row["images_per_second"]
