"""The planner: from the settings of a launch to its plan, every run placed, priced and within the budget.

``predict=true`` also writes down what the laws of smaller runs predict for the largest runs, before these start. The
largest runs wait until all other pre-trained runs are done. Then, or at once where another study gives the data, the
predictions go into the study's ``predictions.json``. Runs from scratch predict nothing and fill the cores beside the
largest.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.study.files import PREDICTIONS, predicted_runs, write_predictions
from nepa_scale.config.objectives import NEXT_EMBEDDING
from nepa_scale.config.registry import PRETRAIN
from nepa_scale.run_dir.status import exclusive, now, read_status
from nepa_scale.utils.errors import ConfigError, shortened
from sweeps.calibrate import known_times
from sweeps.plan import plan
from sweeps.plan.feasibility import check, check_planned, excesses, fitting, plan_warnings, too_large, trimmed
from sweeps.plan.grids import RunSpec
from sweeps.plan.machine import Placements, task_speed, world_sizes
from sweeps.plan.plan import Dropped, Plan, PlannedRun, count_text, run_dir
from sweeps.plan.rules import TOLERANCE
from sweeps.plan.run_specs import expand, price, share_pretraining, unmet
from sweeps.settings.schema import Launch


@dataclass(frozen=True)
class PlannedLaunch:
    """A planned launch, before it is carried out.

    Attributes:
        run_specs: {run_id: settings of the run}.
        plan: its runs.
        too_large, excesses: the tasks that no device can hold, and the budgets that it exceeds; a line each.
        warnings: other doubts; a line each.
        held: the runs that wait until the predictions for them are written.
    """

    run_specs: Mapping[str, RunSpec]
    plan: Plan
    too_large: Sequence[str]
    excesses: Sequence[str]
    warnings: Sequence[str]
    held: Mapping[str, PlannedRun]


def plan_launch(request: Launch) -> PlannedLaunch:
    """Plan the launch ``request``, and write nothing. Raises ``UserError`` with every problem in it."""
    placed, devices = Placements(request.cluster), next(world_sizes(request.cluster))
    run_specs, dropped = _runnable(request, placed, devices)
    check_planned(run_specs.values(), calibrate=request.calibrate)
    check(run_specs.values(), request.study_dir, devices, planning=request.dry_run or request.print_script)
    earlier = plan.load(request.study_dir)
    run_specs = share_pretraining(run_specs, earlier, request.study_dir)
    speed = task_speed(request.cluster, next(iter(run_specs.values())).config.engine.precision)
    measured = known_times(request, run_specs, placed, speed)
    planned = dataclasses.replace(price(request, run_specs, speed, placed, measured), dropped=dropped)
    if request.budget.over == "trim":
        planned = trimmed(planned, request.study_dir, request.budget)
        run_specs = {run.run_id: run_specs[run.run_id] for run in planned.runs}
    known = plan.merge(earlier, planned)
    held = largest(planned, known, equal=equal_budgets(request)) if request.predict else {}
    if held and request.predict_from is None and not predicted_from(planned, held):
        why = "all other runs branch off the largest, which is then the first; give branch=false or predict_from=DIR"
        raise ConfigError([f"predict=true: {why}"])
    return PlannedLaunch(
        run_specs=run_specs,
        plan=planned,
        too_large=too_large(run_specs.values(), placed),
        excesses=excesses(planned, request.study_dir, request.budget),
        warnings=plan_warnings(planned, request.cluster),
        held=held,
    )


def _runnable(request: Launch, placed: Placements, devices: int) -> tuple[dict[str, RunSpec], tuple[Dropped, ...]]:
    """The points of the grid; under ``infeasible=skip`` those that can be run, and the others with their reasons."""
    run_specs = expand(request)
    if request.infeasible == "error":
        return run_specs, ()
    unmet_points = (Dropped(label, "pretrain", reason) for label, reason in unmet(request).items())
    feasible, dropped = fitting(run_specs, placed, devices)
    return feasible, (*unmet_points, *dropped)


def largest(plan: Plan, known: Plan | None = None, *, equal: float = 0.0) -> dict[str, PlannedRun]:
    """The pre-trained runs of most pre-training FLOPs; a part ``equal`` of these is no difference.

    Where the objective varies, those of NEPA's own, which alone the laws are about. ``known``: the ``plan`` with the
    runs of earlier launches, whose pre-training its runs may use.

    Raises ``ConfigError`` when all have equally many.
    """
    runs = [run for run in plan.runs if run.init == "pretrain"]
    own = [run for run in runs if run.values.get("pretrain.objective", NEXT_EMBEDDING.name) == NEXT_EMBEDDING.name]
    flops = {run.run_id: pretrain_flops(known or plan, run) for run in own or runs}
    least = (1 - equal) * max(flops.values(), default=0)
    if all(value >= least for value in flops.values()):
        raise ConfigError([f"predict=true: grid={plan.grid} scales nothing; use a grid over sizes, data or compute"])
    return {run.run_id: run for run in plan.runs if flops.get(run.run_id, -1) >= least}


def equal_budgets(request: Launch) -> float:
    """By what part runs of one budget of FLOPs differ, whose whole steps meet it from both sides."""
    return 2 * TOLERANCE if request.grid.rule == "isoflop" else 0.0


def predicted_from(plan: Plan, held: Collection[str]) -> set[str]:
    """The runs that predictions of those ``held`` back rest on: all others that are pre-trained, but for those whose
    pre-training branches off one of these."""
    return {
        run.run_id
        for run in plan.runs
        if run.init == "pretrain" and run.run_id not in held and run.branched_from not in held
    }


def not_started(runs: Mapping[str, PlannedRun], study_dir: Path) -> list[PlannedRun]:
    """Those ``runs`` of which no task has taken a step; for the others it is too late to predict anything."""
    folders = {run_id: run_dir(study_dir, run_id) for run_id in runs}
    return [run for run_id, run in runs.items() if not any(_has_begun(folders[run_id] / task) for task in run.tasks)]


def unpredicted(held: Mapping[str, PlannedRun], study_dir: Path) -> list[PlannedRun]:
    """Those of the ``held`` runs that have not started and of which nothing is written down."""
    predicted = predicted_runs(study_dir)
    return [run for run in not_started(held, study_dir) if run.run_id not in predicted]


def pretrain_flops(known: Plan, run: PlannedRun) -> int:
    """FLOPs of the pre-training that ``run`` starts from, its own or that of another run, which is ``known``."""
    owner = next((other for other in known.runs if other.run_id == run.pretrained_by), run)
    return owner.tasks[PRETRAIN.name].flops if PRETRAIN.name in owner.tasks else 0


def _has_begun(task_dir: Path) -> bool:
    status = read_status(task_dir)
    return status is not None and (status.step > 0 or status.state == "running")


def announcement(plan: Plan, held: Collection[str]) -> str:
    """The line of a dry run about the runs that will be held back."""
    return f"predict=true: {_names(plan, held)} starts last, once what is expected of it is written down"


def waiting_line(plan: Plan, held: Collection[str]) -> str:
    """The line about runs that are held back."""
    return (
        f"predict=true: {_names(plan, held)} not started: the same command again, once all other pre-trained runs are"
        " done, writes down what is expected and starts it"
    )


def late_line(plan: Plan, late: Collection[str]) -> str:
    """The line about runs of which nothing is written down any more."""
    names = shortened(run.name for run in plan.runs if run.run_id in late)
    return f"predict=true: another launch has started or predicted {names}, so nothing is added about that"


def _names(plan: Plan, held: Collection[str]) -> str:
    return ", ".join(dict.fromkeys(run.label for run in plan.runs if run.run_id in held))


def register(planned: Plan, runs: Collection[PlannedRun], study_dir: Path, source: Path) -> list[str]:
    """Write down what the finished runs of the study ``source`` predict for ``runs``; returns lines to print.

    Raises ``UserError`` when ``source`` cannot be read.
    """
    from analysis.findings.preregistration import Candidate, expectations
    from analysis.study.records import read_study

    known = plan.merge(plan.load(study_dir), planned)
    candidates = [
        Candidate(
            run.run_id,
            run.label,
            params=next(iter(run.tasks.values())).params_backbone,
            pretrain_flops=pretrain_flops(known, run),
            images={name: task.unique_images for name, task in run.tasks.items()},
            values=run.values,
        )
        for run in runs
    ]
    entries = expectations(read_study(source), candidates)
    content = {
        "written_at": now(),
        "study": planned.study,
        "grid": planned.grid,
        "source": str(source.absolute()),
        "entries": entries,
    }
    with exclusive(study_dir):
        write_predictions(study_dir, content)
    return [*(_line(entry) for entry in entries), f"written: {study_dir / PREDICTIONS}"]


def _line(entry: dict[str, Any]) -> str:
    from analysis.findings import text

    what = f"expected: 1 - {entry['task']} {entry['metric']} along {entry['axis']}"
    if entry["law"] is None:
        return f"{what}: nothing, {entry['reason']}"
    first = entry["expected"][0]
    bounds = text.error_span(first["low"] or 0.0, math.inf if first["high"] is None else first["high"])
    error = math.nan if first["error"] is None else first["error"]
    return f"{what}: {text.percent(error)} ({bounds}) at {first['label']} ({count_text(first['x'])})"
