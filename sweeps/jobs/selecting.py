"""Which tasks of a study a command is about: ``STUDY_DIR [run=PATTERN] [task=NAME]``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from nepa_scale.config.registry import TASKS
from nepa_scale.utils.errors import UserError, nearest, shortened
from nepa_scale.utils.files import typed_path
from sweeps.plan.plan import Plan


@dataclass(frozen=True)
class Selection:
    """A study and which of its tasks: ``run`` is a run_id, label or label and seed, or a pattern for them."""

    study_dir: Path
    run: str | None = None
    task: str | None = None

    def keys(self, planned: Plan) -> list[str]:
        """run_id/task of the tasks meant. Raises ``UserError`` where the pattern fits none."""
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


def command(words: Sequence[str], usage: str, help_text: str, act: Callable[[Selection], int]) -> int:
    """Do ``act`` on the tasks that ``words`` name, or show the help; returns the exit code."""
    if {"--help", "-h"} & set(words):
        print(help_text)
        return 0
    return act(read_selection(words, usage))


def read_selection(words: Sequence[str], usage: str) -> Selection:
    """Understand a command line. Raises ``UserError``."""
    folders, given = [], {}
    readers: dict[str, Callable[[str], str]] = {"run": str, "task": _task}
    for word in words:
        key, is_setting, value = word.partition("=")
        if key == "study_dir" or not (is_setting or word.startswith("-")):
            folders.append(value or word)
        elif key in readers and value:
            given[key] = readers[key](value)
        else:
            raise UserError(f"'{word}': not understood{nearest(key, (*readers, 'study_dir'))}; {usage}")
    if len(folders) != 1:
        raise UserError(f"expected one study directory; {usage}")
    return Selection(typed_path(folders[0]), **given)


def _task(name: str) -> str:
    if name not in TASKS:
        raise UserError(f"task={name}: not one of {', '.join(TASKS)}{nearest(name, TASKS)}")
    return name
