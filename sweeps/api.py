"""Planning and launching from Python: ``sweeps.plan(...)`` and ``sweeps.launch(...)``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from nepa_scale.utils import user_folder
from nepa_scale.utils.cli import to_text
from nepa_scale.utils.errors import RunError
from sweeps.follow import plan_view
from sweeps.jobs import jobs
from sweeps.launch import launch as carry_out
from sweeps.plan.plan import Plan
from sweeps.planner import PlannedLaunch, plan_launch
from sweeps.settings.command_line import read_launch
from sweeps.settings.schema import Launch

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 160
"""Characters of a printed plan."""


@dataclass(frozen=True, repr=False)
class PlannedStudy:
    """What a launch would do, with its cost. It prints as ``nepa-launch dry_run=true`` does."""

    request: Launch
    prepared: PlannedLaunch

    def __repr__(self) -> str:
        console = Console(file=StringIO(), width=WIDTH)
        todo = jobs.jobs_to_do(self.plan, self.study_dir)
        with console.capture() as printed:
            plan_view.show(self.plan, todo, self.study_dir, self.request.cluster, console)
        return printed.get()

    @property
    def study_dir(self) -> Path:
        """Where the study goes."""
        return self.request.study_dir

    @property
    def plan(self) -> Plan:
        """Its runs with their costs, as ``plan.json`` has them."""
        return self.prepared.plan

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is doubtful about it; a sentence each."""
        return (*self.prepared.warnings, *self.prepared.too_large, *self.prepared.excesses)

    def to_frame(self) -> pd.DataFrame:
        """One row for each task of each run: ``run_id``, ``label``, ``init``, ``task``, and its planned ``steps``,
        ``images``, ``flops``, ``params_backbone``, ``memory_bytes`` and ``seconds``."""
        import pandas as pd

        costs = ("steps", "images", "flops", "params_backbone", "params_total", "memory_bytes", "seconds")
        return pd.DataFrame(
            {"run_id": run.run_id, "label": run.label, "init": run.init, "task": name}
            | {cost: getattr(task, cost) for cost in costs}
            for run in self.plan.runs
            for name, task in run.tasks.items()
        )


def plan(
    grid: str = "model_size",
    study: str = "demo",
    cluster: str = "local",
    *,
    study_dir: Path | str | None = None,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> PlannedStudy:
    """Plan a study and create nothing.

    Args:
        grid: which settings vary; study: what is trained on what; cluster: where. Names of shipped files or of the
            user's folder.
        study_dir: where plan, runs and report go; None is ``studies/<study>-<grid>``.
        settings: any other key of a launch or of its runs, such as ``{"study.sizes": ["femto", "pico"],
            "pretrain.epochs": 2}``; ``nepa-launch --help`` lists them.
        options: the same without a dot: ``seeds=3``, ``budget={"flops": 1e15}``, ``config_dir="mine"``.

    Raises:
        ConfigError: with every mistake, one line each.
    """
    named = {"grid": grid, "study": study, "cluster": cluster, "study_dir": study_dir, "dry_run": True}
    request = _request({**named, **options, **(settings or {})})
    return PlannedStudy(request, plan_launch(request))


def launch(
    grid: str = "model_size",
    study: str = "demo",
    cluster: str = "local",
    *,
    study_dir: Path | str | None = None,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Run what is missing of a study, and return its folder. Arguments are those of ``plan``.

    On this machine it returns when all is done, on Slurm when all is submitted (``watch=True`` stays, too). Calling it
    again does what is missing.

    Raises:
        ConfigError: with every mistake, before anything is created.
        RunError: where a task it waited for did not come to its end.
    """
    named = {"grid": grid, "study": study, "cluster": cluster, "study_dir": study_dir}
    request = _request({**named, **options, **(settings or {})})
    if carry_out(request) != 0:
        raise RunError(f"{request.study_dir}: not every task is finished; `nepa-status {request.study_dir}` says why")
    return request.study_dir


def _request(given: Mapping[str, Any]) -> Launch:
    """The settings of a launch, understood as the words of its command line."""
    words = [f"{key}={_text(value)}" for name, each in given.items() for key, value in _keys(name, each)]
    return read_launch(user_folder.take(words))


def _keys(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The keys of a section that is given as a dictionary; any other key as it is."""
    if isinstance(value, dict) and "." not in name:
        yield from ((f"{name}.{key}", each) for key, each in value.items())
    else:
        yield name, value


def _text(value: Any) -> str:
    """The word for a value; lists and dictionaries as YAML."""
    return json.dumps(value) if isinstance(value, list | tuple | dict) else to_text(value)
