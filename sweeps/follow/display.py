"""Tables and progress of a study: states, results, and estimates beside actual values.

Progress is live on a terminal and plain lines elsewhere.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeElapsedColumn
from rich.table import Table

from nepa_scale.config.registry import SPECS, TASKS
from nepa_scale.run_dir.status import Status
from nepa_scale.utils import progress
from nepa_scale.utils.errors import failure_reason
from nepa_scale.utils.files import read_json
from sweeps.jobs.task_status import LOST, TaskStatus
from sweeps.plan.plan import Plan, PlannedTask, count_text, duration_text, run_dir, start_text

PLAIN_WIDTH = 140


def make_console() -> Console:
    """A console on standard output; without a terminal it is wide enough for every table."""
    return progress.make_console(PLAIN_WIDTH)


def status_table(plan: Plan, tasks: Sequence[TaskStatus]) -> Table:
    """The state of every task."""
    shown = table(f"{plan.study} study, {plan.grid} grid", TASKS, justify="left")
    statuses, names = {(task.run_id, task.task): task for task in tasks}, plan.names
    for run in plan.runs:
        cells = [state_text(statuses[run.run_id, task]) if task in run.tasks else "" for task in TASKS]
        shown.add_row(names[run.run_id] + start_text(run), *cells)
    return shown


def state_text(task: TaskStatus) -> str:
    """The state, and the step of a task that has begun and not finished."""
    has_begun = task.state in ("running", "preempted", "failed", LOST) and task.steps_total
    return f"{named_state(task)} {task.step}/{task.steps_total}" if has_begun else named_state(task)


def named_state(task: TaskStatus) -> str:
    """The state, with the kind of a failure where it is a known one: failed(milestone)."""
    reason = failure_reason(task.reason) if task.state == "failed" else None
    return f"{task.state}({reason})" if reason else task.state


def running_table(plan: Plan, tasks: Sequence[TaskStatus]) -> Table:
    """The running tasks: step, loss, speed, time left, and with what pre-trainings are expected to end."""
    expected = ("final loss", "final skill") if any(task.expected for task in tasks) else ()
    shown = table("under way", ("step", "loss", "images/s", "time left", *expected))
    titles = plan.titles
    for task in tasks:
        shown.add_row(
            titles[task.key],
            f"{task.step}/{task.steps_total}",
            "" if task.loss is None else f"{task.loss:.4g}",
            "" if task.images_per_second is None else count_text(task.images_per_second),
            duration_text(task.eta_seconds),
            *(_expected_text(task, heading.split()[-1]) for heading in expected),
        )
    return shown


def _expected_text(task: TaskStatus, what: str) -> str:
    """A value that is to come, with its interval; empty of a task of which none is expected."""
    from analysis.forecast.scheduled import Expected  # pandas and scipy, which the other tables do without

    expected = (task.expected or {}).get(what)
    if expected is None:
        return ""
    return "not yet" if "reason" in expected else str(Expected(expected["value"], *expected["interval"]))


def results_table(plan: Plan, study_dir: Path) -> Table:
    """The headline metric of every finished task, with its majority baseline."""
    columns = [
        (task.headline.score, "(majority)") if task.headline.baseline else (task.headline.score,)
        for task in SPECS.values()
    ]
    shown = table("results", ["N", *itertools.chain.from_iterable(columns)])
    names = plan.names
    for run in plan.runs:
        cells = []
        for task in SPECS.values():
            owner = run.run_id if task.downstream else run.pretrained_by or run.run_id
            metrics = _metrics(run_dir(study_dir, owner) / task.name)
            keys = filter(None, (task.headline.metric, task.headline.baseline))
            cells += [f"{metrics[key]:.3f}" if key in metrics else "" for key in keys]
        params = next(iter(run.tasks.values())).params_backbone
        shown.add_row(names[run.run_id] + start_text(run), count_text(params), *cells)
    return shown


def _metrics(directory: Path) -> dict[str, Any]:
    try:
        metrics: dict[str, Any] = read_json(directory / "result.json")["metrics"]
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return {}
    return metrics


@dataclass(frozen=True)
class Outcome:
    """A finished task: its plan, and the values of its result. ``seconds`` include the start-up."""

    task: str
    planned: PlannedTask
    seconds: float
    flops: int
    memory_bytes: int


def outcomes(plan: Plan, study_dir: Path) -> list[Outcome]:
    """The outcome of every task of ``plan`` that has a result."""
    finished = []
    for run in plan.runs:
        for name, planned in run.tasks.items():
            try:
                result = read_json(run_dir(study_dir, run.run_id) / name / "result.json")
            except (FileNotFoundError, ValueError):
                continue
            seconds = result["wall_seconds"] + (result.get("startup_seconds") or 0.0)
            finished.append(Outcome(name, planned, seconds, result["flops_train"], result["peak_memory_bytes"]))
    return finished


def accuracy_table(finished: Sequence[Outcome]) -> Table:
    """Planned against actual values: a line for each task and way of estimating its time."""
    shown = table(
        "planned against actual", ("number", "planned", "actual", "of actual", "FLOPs", "memory"), first="task"
    )
    groups: dict[str, list[Outcome]] = {}
    for outcome in finished:
        name = outcome.task + ("" if outcome.planned.calibrated else " (not calibrated)")
        groups.setdefault(name, []).append(outcome)
    for name, members in groups.items():
        shown.add_row(name, str(len(members)), *_times(members), _flops(members), _memory(members))
    if len(groups) > 1:
        shown.add_row("all", str(len(finished)), *_times(finished), _flops(finished), _memory(finished))
    return shown


def _times(members: Sequence[Outcome]) -> tuple[str, str, str]:
    """Sums of planned and actual time, and their ratio."""
    known = [outcome.planned.seconds for outcome in members if outcome.planned.seconds is not None]
    actual = sum(outcome.seconds for outcome in members)
    if len(known) < len(members):
        return "?", duration_text(actual), "?"
    planned = sum(known)
    return duration_text(planned), duration_text(actual), f"{planned / actual:.0%}"


def _flops(members: Sequence[Outcome]) -> str:
    """Whether the FLOPs that tasks logged equal those planned."""
    different = sum(outcome.planned.flops != outcome.flops for outcome in members)
    return f"{different} differ" if different else "equal"


def _memory(members: Sequence[Outcome]) -> str:
    """Smallest to largest ratio of the planned to the actual peak of memory."""
    ratios = [outcome.planned.memory_bytes / outcome.memory_bytes for outcome in members if outcome.memory_bytes]
    return f"{min(ratios):.0%} to {max(ratios):.0%}" if ratios else "?"


def table(
    title: str, headings: Sequence[str], justify: Literal["left", "right"] = "right", first: str = "run"
) -> Table:
    """A table of which only the first column folds on a narrow terminal."""
    empty = Table(title=title, title_justify="left", box=None, pad_edge=False)
    empty.add_column(first, overflow="fold")
    for heading in headings:
        empty.add_column(heading, justify=justify, no_wrap=True)
    return empty


class Progressing:
    """Shows the progress of tasks: bars on a terminal, a line for every start and end elsewhere."""

    def __init__(self, console: Console, num_tasks: int) -> None:
        self._console, self._total, self._ended = console, num_tasks, 0
        self._started: dict[str, float] = {}
        self._bars: dict[str, TaskID] = {}
        columns = (progress.text_column(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._all_tasks = self._progress.add_task("tasks", total=num_tasks)
        self._progress.start()

    def start(self, name: str, age: float = 0.0) -> None:
        """Show that ``name`` trains, ``age`` seconds after its process started."""
        self._started[name] = time.monotonic() - age
        if self._console.is_terminal:
            self._bars[name] = self._progress.add_task(name, total=None)
        else:
            self.say(f"start     {name}")

    def step(self, name: str, status: Status | None) -> None:
        """Show the step of ``name``."""
        if name in self._bars and status is not None and status.steps_total:
            self._progress.update(self._bars[name], completed=status.step, total=status.steps_total)

    def end(self, name: str, status: Status, note: str = "") -> None:
        """Show that ``name`` has ended, or will not be run."""
        self._ended += status.state in ("finished", "failed")
        self._progress.update(self._all_tasks, completed=self._ended)
        if name in self._bars:
            self._progress.remove_task(self._bars.pop(name))
        took = f" after {duration_text(time.monotonic() - self._started[name])}" if name in self._started else ""
        self.say(f"{status.state:<9} {name}{took}{note}")

    def close(self) -> None:
        """Remove the bars."""
        self._progress.stop()

    def say(self, text: str) -> None:
        """Print a line."""
        width = len(str(self._total))
        self._console.print(f"[{self._ended:>{width}}/{self._total}] {text}", soft_wrap=True)


def failure_lines(failures: Sequence[tuple[str, str, Path]]) -> list[str]:
    """A line for every failure (task, error, log file), without the log file where there is none."""
    width = max((len(name) for name, _, _ in failures), default=0)
    return [
        f"failed  {name:<{width}}  {error}" + (f"  (log: {log})" if log.is_file() else "")
        for name, error, log in failures
    ]
