"""Plan and run a study: ``python sweeps/launch.py grid=model_size [study=demo] [dry_run=true] ...``.

Everything that can be wrong is said before anything is created. The same command again does what is missing.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Run as a script, Python imports from this file's folder; import from the checkout it belongs to instead.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from analysis.study.files import PREDICTIONS
from nepa_scale.config import overrides
from nepa_scale.run_dir.status import exclusive
from nepa_scale.utils import callable_module
from nepa_scale.utils.cli import Grammar, command, print_json, room_for_json
from nepa_scale.utils.errors import ConfigError, UserError, shortened
from nepa_scale.utils.files import file_in_the_way
from sweeps.follow import display, plan_view
from sweeps.follow.follower import Executor, executor, scripts, see_through
from sweeps.follow.plan_view import learning_rates
from sweeps.jobs import jobs
from sweeps.jobs.jobs import Job
from sweeps.jobs.task import note_launch
from sweeps.jobs.task_status import not_begun
from sweeps.plan import plan
from sweeps.plan.feasibility import check_shards, make_embedded_data
from sweeps.plan.machine import local_slots
from sweeps.plan.plan import CLUSTER_NAME, Plan, read_cluster, save_cluster
from sweeps.planner import (
    PlannedLaunch,
    announcement,
    late_line,
    not_started,
    plan_launch,
    predicted_from,
    register,
    unpredicted,
    waiting_line,
)
from sweeps.settings.command_line import calibration_help, help_text, read_launch
from sweeps.settings.schema import Launch, LocalSettings


@command(Grammar(read_launch, help_text))
def main(request: Launch) -> int:
    """Do what ``request`` asks; returns the exit code: 0 all done, 1 something is not, 2 a user's mistake."""
    return launch(request)


@command(Grammar(lambda words: read_launch([*words, "calibrate=true", "dry_run=true"]), calibration_help))
def calibrate(request: Launch) -> int:
    """Measure how long the tasks of a study take where they will run, unless that is known, and show the plan."""
    return launch(request)


def _check_study_dir(study_dir: Path) -> None:
    """Raises ``UserError`` when ``study_dir`` cannot become a folder."""
    blocking = file_in_the_way(study_dir)
    if blocking is not None:
        raise UserError(f"study_dir={study_dir}: '{blocking}' is a file; name a folder")
    existing = next(path for path in (study_dir, *study_dir.absolute().parents) if path.is_dir())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"study_dir={study_dir}: no permission to write in '{existing}'")


def launch(request: Launch) -> int:
    """Show the plan; unless this is a dry run, carry it out."""
    _check_study_dir(request.study_dir)
    with room_for_json(request.json):
        prepared = plan_launch(request)
    if request.print_script:
        for script in scripts(request.cluster, request.study_dir, _todo(request, prepared)):
            print(script)
        return 0
    if request.json:
        print_json(_document(request, prepared))
        return 0
    plan_view.show(prepared.plan, _todo(request, prepared), request.study_dir, request.cluster, display.make_console())
    for line in learning_rates(prepared.run_specs.values()):
        print(line)
    for line in prepared.warnings:
        print(f"warning: {line}")
    if request.dry_run:
        for line in (*prepared.too_large, *prepared.excesses):
            print(f"warning: {line}")
        if prepared.held:
            print(announcement(prepared.plan, prepared.held))
        print("dry run: nothing was created")
        return 0
    if prepared.excesses:
        raise ConfigError(prepared.excesses)
    if prepared.too_large and not all(point.config.force for point in prepared.run_specs.values()):
        raise ConfigError(prepared.too_large)
    check_shards(prepared.run_specs.values())
    return _predict_and_carry_out(request, prepared) if prepared.held else _carry_out(request, prepared)


def _document(request: Launch, prepared: PlannedLaunch) -> dict[str, Any]:
    """What a dry run shows, for scripts: the plan as plan.json has it, the tasks to do, and all that is doubtful."""
    return {
        "study_dir": str(request.study_dir),
        "plan": dataclasses.asdict(prepared.plan),
        "to_do": [job.key for job in _todo(request, prepared)],
        "held_back": sorted(prepared.held),
        "learning_rates": learning_rates(prepared.run_specs.values()),
        "warnings": [*prepared.warnings, *prepared.too_large, *prepared.excesses],
    }


def _todo(request: Launch, prepared: PlannedLaunch) -> list[Job]:
    """The tasks that the launch is to start."""
    return jobs.selected(jobs.jobs_to_do(prepared.plan, request.study_dir), request.only)


def _predict_and_carry_out(request: Launch, prepared: PlannedLaunch) -> int:
    """Do the smaller runs, write down what is expected of the largest, and do these; as far as one command gets."""
    planned, held, study_dir = prepared.plan, prepared.held, request.study_dir
    coming = unpredicted(held, study_dir)
    if not coming:
        there = f"{study_dir / PREDICTIONS} says what is expected and stays as it is"
        waiting = not_started(held, study_dir)
        print(f"predict=true: {there if waiting else 'the largest runs have started, so nothing is expected of them'}")
        return _carry_out(request, prepared)
    if request.predict_from is None:
        needed = predicted_from(planned, held)
        code = _carry_out(request, prepared, needed)
        if left := [job for job in jobs.jobs_to_do(planned, study_dir) if _run_id(job) in needed]:
            print(waiting_line(planned, held))
            if _watches(request) and any(jobs.state(job) != "failed" for job in left):
                return code  # a signal has ended the watching
            others = {run.run_id for run in planned.runs} - needed - set(held)
            return max(code, _carry_out(request, prepared, others))
    waited, coming = coming, unpredicted(held, study_dir)
    if late := {run.run_id for run in waited} - {run.run_id for run in coming}:
        print(late_line(planned, late))
    for line in register(planned, coming, study_dir, request.predict_from or study_dir) if coming else ():
        print(line)
    return _carry_out(request, prepared)


def _run_id(job: Job) -> str:
    return job.key.partition("/")[0]


def _carry_out(request: Launch, prepared: PlannedLaunch, run_ids: Collection[str] | None = None) -> int:
    """Write the plan and the runs' configurations, put in line what is not finished, and stay where that is asked.

    With ``run_ids``, only the tasks of these runs; those of others wait for another call.
    """
    study_dir = request.study_dir
    place = executor(request.cluster, study_dir)
    place.check()
    _check_one_place(request)
    with exclusive(study_dir):
        place.settle(jobs.jobs_to_do(prepared.plan, study_dir))
        chosen = _todo(request, prepared)
        if run_ids is not None:
            chosen = [job for job in chosen if _run_id(job) in run_ids]
        todo = jobs.without_orphans(chosen)
        make_embedded_data(prepared.run_specs.values())
        for line in (*_recorded(request, prepared, place), *place.submit(todo)):
            print(line)
    return see_through(place, prepared.plan, study_dir, todo, watch=_watches(request))


def _recorded(request: Launch, prepared: PlannedLaunch, place: Executor) -> list[str]:
    """Write the plan, the cluster and the runs' configurations; returns lines to print about earlier launches.

    The plan is merged with the one that is there now: another launch may have added to it since this one was planned.
    """
    study_dir = request.study_dir
    merged = plan.merge(plan.load(study_dir), prepared.plan)
    lines = [*_other_slots(request, place), *_left_behind(merged, prepared.plan, study_dir)]
    plan.save(merged, study_dir)
    save_cluster(request.cluster, study_dir)
    for run_id, point in prepared.run_specs.items():
        overrides.save(point.config, plan.run_dir(study_dir, run_id) / "config.yaml")
        note_launch(plan.run_dir(study_dir, run_id))
    return lines


def _other_slots(request: Launch, place: Executor) -> list[str]:
    """A line where the study's queue is running with other slots than those asked for."""
    if not (isinstance(request.cluster, LocalSettings) and place.is_active()):
        return []
    earlier = read_cluster(request.study_dir)
    if not isinstance(earlier, LocalSettings) or local_slots(earlier) == local_slots(request.cluster):
        return []
    return ["cluster: the queue keeps the slots that it started with; those of this launch hold from its next start"]


def _left_behind(merged: Plan, planned: Plan, study_dir: Path) -> list[str]:
    """A line about runs of earlier launches that nobody may want any more: they keep the study from being complete."""
    earlier = {run.run_id for run in merged.runs} - {run.run_id for run in planned.runs}
    left = not_begun(merged, study_dir, earlier)
    if not left:
        return []
    names = shortened(name for run_id, name in merged.names.items() if run_id in left)
    return [
        f"{len(left)} runs of earlier launches are not in this grid and have not begun ({names}):"
        f" `nepa-cancel {study_dir} run=PATTERN forget=true` takes such runs out of the plan"
    ]


def _watches(request: Launch) -> bool:
    """Whether the command stays until all is done."""
    return isinstance(request.cluster, LocalSettings) if request.watch is None else request.watch


def _check_one_place(request: Launch) -> None:
    """Raises ``UserError`` while the study is at work elsewhere: its tasks would be done twice."""
    if not (request.study_dir / CLUSTER_NAME).is_file():
        return
    earlier, planned = read_cluster(request.study_dir), plan.load(request.study_dir)
    if earlier.kind == request.cluster.kind or planned is None:
        return
    waiting = (*jobs.UNDER_WAY, "preempted")
    at_work = any(jobs.state(job) in waiting for job in jobs.unfinished_jobs(planned, request.study_dir))
    if at_work and executor(earlier, request.study_dir).is_active():
        raise UserError(
            f"cluster={request.cluster.kind}: {request.study_dir} is at work on cluster={earlier.kind};"
            f" wait for that, or stop it with `nepa-cancel {request.study_dir}`"
        )


if __name__ == "__main__":
    sys.exit(main())
else:
    callable_module(__name__, "sweeps.api:launch")
