"""What a person sees of a study: progress, states, results. Live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeElapsedColumn
from rich.table import Table

from nepa_scale.config.registry import TASKS
from nepa_scale.run_dir.status import Status
from nepa_scale.utils import terminal
from nepa_scale.utils.errors import failure_reason
from nepa_scale.utils.files import read_json
from sweeps.jobs.task_status import LOST, Standing
from sweeps.plan.plan import Plan, run_dir
from sweeps.plan.units import count, duration, start_text

PLAIN_WIDTH = 140
RESULTS = (("pretrain", "skill"), ("probe", "attentive"), ("classify", "top1"), ("segment", "miou"))
BASELINES = {"top1": "top1_majority", "miou": "miou_majority"}


def make_console() -> Console:
    """Standard output; without a terminal wide enough for every table, as nobody folds lines in a log."""
    return terminal.make_console(PLAIN_WIDTH)


def status_table(plan: Plan, tasks: Sequence[Standing]) -> Table:
    """The state of every task."""
    shown = table(f"{plan.study} study, {plan.grid} grid", TASKS, justify="left")
    stand, names = {(task.run_id, task.task): task for task in tasks}, plan.names
    for run in plan.runs:
        cells = [state_text(stand[run.run_id, task]) if task in run.tasks else "" for task in TASKS]
        shown.add_row(names[run.run_id] + start_text(run), *cells)
    return shown


def running_table(plan: Plan, tasks: Sequence[Standing]) -> Table:
    """What is under way: how far, how fast, how long still."""
    shown = table("under way", ("step", "loss", "images/s", "time left"))
    titles = plan.titles
    for task in tasks:
        shown.add_row(
            titles[task.key],
            f"{task.step}/{task.steps_total}",
            "" if task.loss is None else f"{task.loss:.4g}",
            "" if task.images_per_second is None else count(task.images_per_second),
            duration(task.eta_seconds),
        )
    return shown


def results_table(plan: Plan, study_dir: Path) -> Table:
    """The headline metric of every finished task, with the answer that takes no learning beside it."""
    shown = table("results", ("N", "skill", "probe", "top-1", "(majority)", "mIoU", "(majority)"))
    names = plan.names
    for run in plan.runs:
        cells = []
        for task, name in RESULTS:
            owner = run.pretrained_by if task == "pretrain" and run.pretrained_by else run.run_id
            metrics = _metrics(run_dir(study_dir, owner) / task)
            wanted = [name, BASELINES[name]] if name in BASELINES else [name]
            cells += [f"{metrics[key]:.3f}" if key in metrics else "" for key in wanted]
        params = next(iter(run.tasks.values())).params_backbone
        shown.add_row(names[run.run_id] + start_text(run), count(params), *cells)
    return shown


def table(
    title: str, headings: Sequence[str], justify: Literal["left", "right"] = "right", first: str = "run"
) -> Table:
    """A table whose first column alone gives way where the terminal is narrow."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False)
    made.add_column(first, overflow="fold")
    for heading in headings:
        made.add_column(heading, justify=justify, no_wrap=True)
    return made


def state_text(task: Standing) -> str:
    """One cell: the state, and the step where work is under way."""
    under_way = task.state in ("running", "preempted", "failed", LOST) and task.steps_total
    return f"{named_state(task)} {task.step}/{task.steps_total}" if under_way else named_state(task)


def named_state(task: Standing) -> str:
    """The state, with the kind of failure where it is of a known one: failed(milestone)."""
    reason = failure_reason(task.reason) if task.state == "failed" else None
    return f"{task.state}({reason})" if reason else task.state


class Progressing:
    """Follows tasks while they run: bars on a terminal, a line for every start and end elsewhere."""

    def __init__(self, console: Console, num_tasks: int) -> None:
        self._console, self._total, self._ended = console, num_tasks, 0
        self._started: dict[str, float] = {}
        self._bars: dict[str, TaskID] = {}
        columns = (terminal.text_column(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._whole = self._progress.add_task("tasks", total=num_tasks)
        self._progress.start()

    def start(self, name: str, age: float = 0.0) -> None:
        """``name`` starts to train, ``age`` seconds after its process did."""
        self._started[name] = time.monotonic() - age
        if self._console.is_terminal:
            self._bars[name] = self._progress.add_task(name, total=None)
        else:
            self.say(f"start     {name}")

    def step(self, name: str, status: Status | None) -> None:
        """``name`` has come so far."""
        if name in self._bars and status is not None and status.steps_total:
            self._progress.update(self._bars[name], completed=status.step, total=status.steps_total)

    def end(self, name: str, status: Status, note: str = "") -> None:
        """``name`` came to an end, or will not be run."""
        self._ended += status.state in ("finished", "failed")
        self._progress.update(self._whole, completed=self._ended)
        if name in self._bars:
            self._progress.remove_task(self._bars.pop(name))
        took = f" after {duration(time.monotonic() - self._started[name])}" if name in self._started else ""
        self.say(f"{status.state:<9} {name}{took}{note}")

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        width = len(str(self._total))
        self._console.print(f"[{self._ended:>{width}}/{self._total}] {text}", soft_wrap=True)


def failure_lines(failures: Sequence[tuple[str, str, Path]]) -> list[str]:
    """A line for every (task, error, log) that failed; one that never ran has no log."""
    width = max((len(name) for name, _, _ in failures), default=0)
    return [
        f"failed  {name:<{width}}  {error}" + (f"  (log: {log})" if log.is_file() else "")
        for name, error, log in failures
    ]


def _metrics(directory: Path) -> dict[str, Any]:
    try:
        metrics: dict[str, Any] = read_json(directory / "result.json")["metrics"]
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return {}
    return metrics
