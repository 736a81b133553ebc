"""The planner: from the settings of a launch to its plan, every run placed, priced and within the budget.

It writes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweeps.calibrate import known_times
from sweeps.plan import feasibility, plan, preregistration
from sweeps.plan.feasibility import check, check_planned, fitting, plan_warnings, too_large
from sweeps.plan.grids import RunSpec
from sweeps.plan.machine import Placements, task_speed, world_sizes
from sweeps.plan.plan import Dropped, Plan, PlannedRun
from sweeps.plan.pricing import price
from sweeps.plan.run_specs import expand, share_pretraining, unmet
from sweeps.settings.schema import Launch


@dataclass(frozen=True)
class PlannedLaunch:
    """A planned launch, before it is carried out.

    Attributes:
        run_specs: {run_id: settings of the run}.
        plan: its runs; ``merged``: together with those of earlier launches into the same directory.
        too_large, excesses: the tasks that no device can hold, and the budgets that it exceeds; a line each.
        warnings: other doubts; a line each.
        held: the runs that wait until the predictions for them are written.
    """

    run_specs: Mapping[str, RunSpec]
    plan: Plan
    merged: Plan
    too_large: Sequence[str]
    excesses: Sequence[str]
    warnings: Sequence[str]
    held: Mapping[str, PlannedRun]


def plan_launch(request: Launch) -> PlannedLaunch:
    """Plan the launch ``request``. Raises ``UserError`` with every problem in it."""
    placed, devices = Placements(request.cluster), next(world_sizes(request.cluster))
    run_specs, dropped = _runnable(request, placed, devices)
    check_planned(run_specs.values(), calibrate=request.calibrate)
    check(run_specs.values(), devices, planning=request.dry_run or request.print_script)
    earlier = plan.load(request.study_dir)
    run_specs = share_pretraining(run_specs, earlier, request.study_dir)
    speed = task_speed(request.cluster, next(iter(run_specs.values())).config.engine.precision)
    measured = known_times(request, run_specs, placed, speed)
    planned = dataclasses.replace(price(request, run_specs, speed, placed, measured), dropped=dropped)
    if request.budget.over == "trim":
        planned = feasibility.trimmed(planned, request.study_dir, request.budget)
        run_specs = {run.run_id: run_specs[run.run_id] for run in planned.runs}
    return PlannedLaunch(
        run_specs=run_specs,
        plan=planned,
        merged=plan.merge(earlier, planned),
        too_large=too_large(run_specs.values(), placed),
        excesses=feasibility.excesses(planned, request.study_dir, request.budget),
        warnings=plan_warnings(planned, request.cluster),
        held=preregistration.largest(planned) if request.predict else {},
    )


def _runnable(request: Launch, placed: Placements, devices: int) -> tuple[dict[str, RunSpec], tuple[Dropped, ...]]:
    """The points of the grid; under ``infeasible=skip`` those that can be run, and the others with their reasons."""
    run_specs = expand(request)
    if request.infeasible == "error":
        return run_specs, ()
    unmet_points = (Dropped(label, "pretrain", reason) for label, reason in unmet(request).items())
    feasible, dropped = fitting(run_specs, placed, devices)
    return feasible, (*unmet_points, *dropped)
