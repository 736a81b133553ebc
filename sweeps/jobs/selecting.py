"""Which tasks of a study a command is about: ``STUDY_DIR [run=PATTERN] [task=NAME]``."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from nepa_scale.config.registry import TASKS
from nepa_scale.utils.arguments import option
from nepa_scale.utils.errors import UserError, nearest, shortened
from sweeps.plan.plan import Plan


@dataclass(frozen=True)
class Selection:
    """A study and which of its tasks."""

    study_dir: Path = option("directory of the study", positional=True, form="STUDY_DIR")
    run: str | None = option(
        "only runs whose label, label and seed or run_id fits, e.g. 'femto*'", None, form="PATTERN"
    )
    task: str | None = option("only this task", None, choices=TASKS)

    def keys(self, planned: Plan) -> list[str]:
        """run_id/task of the selected tasks. Raises ``UserError`` where there are none."""
        keys = [
            f"{run.run_id}/{task}"
            for run in planned.runs
            for task in run.tasks
            if self.task in (None, task)
            and (self.run is None or any(map(self._fits, (run.run_id, run.label, run.name))))
        ]
        if not keys:
            names = sorted({run.name for run in planned.runs})
            labels = {run.label for run in planned.runs}
            hint = nearest(self.run, sorted(labels.union(names))) if self.run else ""
            raise UserError(f"{self._words()}: no such task in {self.study_dir}{hint} (runs: {shortened(names)})")
        return keys

    def _fits(self, name: str) -> bool:
        return name == self.run or fnmatchcase(name, str(self.run))  # a name may have brackets of its own

    def _words(self) -> str:
        given = {"run": self.run, "task": self.task}
        return " ".join(f"{key}={value}" for key, value in given.items() if value is not None) or "all tasks"
