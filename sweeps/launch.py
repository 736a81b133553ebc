"""Plan and run a study: ``python sweeps/launch.py grid=model_size [study=demo] [dry_run=true] ...``.

Everything that can be wrong is said before anything is created. The same command again does what is missing.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

if __name__ == "__main__":
    # Run as a script, Python imports from this file's folder; import from the checkout it belongs to instead.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from analysis.prediction_file import NAME
from nepa_scale import checks, overrides
from nepa_scale.data.reporting import reporting
from nepa_scale.errors import ConfigError, UserError
from nepa_scale.files import file_in_the_way
from nepa_scale.runs import exclusive
from sweeps import display, jobs, plan, plan_view, registration
from sweeps.calibrating import measurements
from sweeps.calibrating.here import run_here
from sweeps.calibrating.on_slurm import run_on_slurm
from sweeps.calibrating.shapes import unmeasured
from sweeps.calibrating.short_runs import short_run
from sweeps.clusters import CLUSTER_NAME, read_cluster, save_cluster
from sweeps.command_line import compose_tree, options, read_launch
from sweeps.executors import executor
from sweeps.finishing import see_through
from sweeps.machine import Speed, local_slots, task_speed, world_size
from sweeps.plan import Dropped, Plan, PlannedRun
from sweeps.planning import budgets
from sweeps.planning.feasibility import check, fitting, too_large
from sweeps.planning.placements import Placements
from sweeps.planning.point import Point
from sweeps.planning.points import expand, unmet
from sweeps.planning.pricing import price
from sweeps.planning.rates import learning_rates
from sweeps.planning.sharing import share_pretraining
from sweeps.settings import GROUPS, Launch, LocalSettings, describe

EXIT_USER_ERROR = 2


def main(words: Sequence[str]) -> int:
    """Do what ``words`` ask; returns the exit code: 0 all done, 1 something is not, 2 a user's mistake."""
    try:
        if {"--help", "-h"} & set(words):
            print(help_text())
            return 0
        return launch(read_launch(words))
    except UserError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return EXIT_USER_ERROR


def launch(request: Launch) -> int:
    """Show the plan; unless this is a dry run, carry it out."""
    points = expand(request)
    dropped: tuple[Dropped, ...] = ()
    placed = Placements(request.cluster)
    if request.unfit == "drop":
        points, dropped = fitting(points, placed, world_size(request.cluster))
        dropped = (*(Dropped(label, "pretrain", reason) for label, reason in unmet(request).items()), *dropped)
    check(points.values(), world_size(request.cluster))
    _check_study_dir(request.study_dir)
    earlier = plan.load(request.study_dir)
    points = share_pretraining(points, earlier, request.study_dir)
    speed = task_speed(request.cluster, next(iter(points.values())).config.engine.precision)
    measured = _measurements(request, points, placed, speed)
    planned = dataclasses.replace(price(request, points, speed, placed, measured), dropped=dropped)
    if request.budget.over == "trim":
        planned = budgets.trimmed(planned, request.study_dir, request.budget)
        points = {run.run_id: points[run.run_id] for run in planned.runs}
    todo = jobs.selected(jobs.jobs_to_do(planned, request.study_dir), request.only)
    held = registration.largest(planned) if request.predict else {}
    excesses = budgets.excesses(planned, request.study_dir, request.budget)
    beyond = too_large(points.values(), placed)
    plan_view.show(planned, todo, request.study_dir, request.cluster, display.make_console())
    for line in learning_rates(points.values()):
        print(line)
    if request.dry_run:
        for line in (*beyond, *excesses):
            print(f"warning: {line}")
        if held:
            print(registration.waiting_line(planned, held))
        print("dry run: nothing was created")
        return 0
    if excesses:
        raise ConfigError(excesses)
    if beyond and not all(point.config.force for point in points.values()):
        raise ConfigError(beyond)
    _check_shards(points.values())
    merged = plan.merge(earlier, planned)
    if request.predict:
        return _predict_and_carry_out(request, planned, merged, points, held)
    return _carry_out(request, planned, merged, points)


def help_text() -> str:
    """Usage, the choices, and the keys of the default choices."""
    tree, used = compose_tree([])
    defaults: Any = OmegaConf.to_object(tree)
    lines = [
        "usage: python sweeps/launch.py [grid=NAME] [study=NAME] [cluster=NAME] key=value ...",
        "",
        *(f"{group + '=NAME':<14} {', '.join(options(group))} (default {used[group]})" for group in GROUPS),
        "study_dir=DIR  where plan, runs and report go (default studies/<study>-<grid>)",
        "branch=true    with grid=data_size: one long pre-training serves all sizes by short decays",
        "seeds=N        repeat every point of the grid with so many seeds",
        "calibrate=true measure how long such tasks take where they will run, once, for better estimates",
        "predict=true   write down what smaller runs let expect of the largest, before these start",
        "dry_run=true   show the plan with its cost and create nothing; also --dry-run",
        "unfit=drop     leave out points that do not fit the devices, with the reason, instead of refusing",
        "only=failed    start only what failed; only=missing: only what did not",
        "watch=false    leave once all is in line, the tasks go on; watch=true stays on Slurm, too",
        "",
        "Keys of the choices, with their values in the default ones:",
    ]
    for group in (*GROUPS, "budget"):
        for key, value, meaning in describe(getattr(defaults, group), group):
            word = f"{key}.SETTING=..." if isinstance(value, dict) else f"{key}={overrides.to_text(value)}"
            lines.append(f"  {word.replace(' ', ''):<48} {meaning}")
    lines += [
        "",
        "Any setting of a run works too and holds for every point, e.g. pretrain.epochs=2 data.root=DIR;",
        "`python nepa_scale/train.py --help` lists them. Fewer points: study.sizes=[femto,pico].",
        "The same command again does what is missing; `python sweeps/status.py STUDY_DIR` shows it.",
    ]
    return "\n".join(lines)


def _measurements(
    request: Launch, points: Mapping[str, Point], placed: Placements, speed: Speed
) -> measurements.Measurements:
    """What is known of times on these devices; with ``calibrate`` after measuring what is missing."""
    folder = measurements.cache_folder()
    known = measurements.load(folder, measurements.device_of(request.cluster))
    if not request.calibrate:
        return known
    missing = unmeasured(points, placed, known)
    if missing:
        _check_shards(points.values())
        _make_embedded_data(points.values())
        runs = [(shape, short_run(shape, speed.seconds_of_work(shape.work))) for shape in missing]
        if isinstance(request.cluster, LocalSettings):
            found = run_here(runs, local_slots(request.cluster), folder)
        else:
            found = run_on_slurm(runs, request.cluster, folder)
        for measurement in found:
            known.add(measurement)
        known.save(folder)
    return known


def _check_study_dir(study_dir: Path) -> None:
    """Raises ``UserError`` when ``study_dir`` cannot become a folder."""
    blocking = file_in_the_way(study_dir)
    if blocking is not None:
        raise UserError(f"study_dir={study_dir}: '{blocking}' is a file; name a folder")
    existing = next(path for path in (study_dir, *study_dir.absolute().parents) if path.is_dir())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"study_dir={study_dir}: no permission to write in '{existing}'")


def _predict_and_carry_out(
    request: Launch, planned: Plan, merged: Plan, points: dict[str, Point], held: Mapping[str, PlannedRun]
) -> int:
    """Do the smaller runs, write down what is expected of the largest, and do these; as far as one command gets."""
    study_dir, coming = request.study_dir, registration.not_started(held, request.study_dir)
    if (study_dir / NAME).exists() or not coming:
        there = f"{study_dir / NAME} is there and stays as it is"
        print(f"predict=true: {there if coming else 'the largest runs have started, so nothing is expected of them'}")
        return _carry_out(request, planned, merged, points)
    if request.predict_from is None:
        code = _carry_out(request, planned, merged, points, held)
        if any(job.key.partition("/")[0] not in held for job in jobs.jobs_to_do(planned, study_dir)):
            print(registration.waiting_line(planned, held))
            return code
    for line in registration.register(planned, coming, study_dir, request.predict_from or study_dir):
        print(line)
    return _carry_out(request, planned, merged, points)


def _carry_out(
    request: Launch, planned: Plan, merged: Plan, points: dict[str, Point], held: Collection[str] = ()
) -> int:
    """Write the plan and the runs' configurations, put in line what is not finished, and stay where that is asked.

    The tasks of runs ``held`` back wait for another call.
    """
    study_dir = request.study_dir
    place = executor(request.cluster, study_dir)
    place.check()
    _check_one_place(request)
    with exclusive(study_dir):
        place.settle(jobs.jobs_to_do(planned, study_dir))
        todo = jobs.selected(jobs.jobs_to_do(planned, study_dir), request.only)
        todo = jobs.without_orphans(job for job in todo if job.key.partition("/")[0] not in held)
        _make_embedded_data(points.values())
        plan.save(merged, study_dir)
        save_cluster(request.cluster, study_dir)
        for run_id, point in points.items():
            overrides.save(point.config, plan.run_dir(study_dir, run_id) / "config.yaml")
        for line in place.submit(todo):
            print(line)
    watch = isinstance(request.cluster, LocalSettings) if request.watch is None else request.watch
    return see_through(place, planned, study_dir, todo, watch=watch)


def _check_one_place(request: Launch) -> None:
    """Raises ``UserError`` while the study is at work elsewhere: its tasks would be done twice."""
    if not (request.study_dir / CLUSTER_NAME).is_file():
        return
    earlier = read_cluster(request.study_dir)
    if earlier.kind != request.cluster.kind and executor(earlier, request.study_dir).is_active():
        raise UserError(
            f"cluster.kind={request.cluster.kind}: {request.study_dir} is at work with cluster.kind={earlier.kind};"
            f" wait for that, or stop it with `python sweeps/cancel.py {request.study_dir}`"
        )


def _check_shards(points: Iterable[Point]) -> None:
    """Raises ``ConfigError`` naming every bad shard, before many jobs would find them one after the other."""
    distinct = {
        (point.config.data.root, *(point.config.task_config(task).dataset for task in point.tasks)): point
        for point in points
    }
    with reporting() as report:
        lines = [
            line for point in distinct.values() for line in checks.check_contents(point.config, point.tasks, report)
        ]
    if lines:
        raise ConfigError(list(dict.fromkeys(lines)))


def _make_embedded_data(points: Iterable[Point]) -> None:
    """Write the embedded data set once, before several tasks want it at the same time."""
    roots = {p.config.data.root for p in points if any(checks.is_made_on_demand(p.config, task) for task in p.tasks)}
    for root in roots:
        from nepa_scale.data.digits import write_digits

        write_digits(Path(root))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
