"""From the points of a grid to runs: each point's settings, put together and checked."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterator
from typing import Any

from nepa_scale.config import overrides
from nepa_scale.config.registry import TASKS
from nepa_scale.config.schema import RunConfig
from nepa_scale.utils.errors import ConfigError
from sweeps.plan import branches, grids, isoflop, tuning
from sweeps.plan.configurations import Configurations
from sweeps.plan.run_spec import Pairs, Point
from sweeps.settings.schema import MOST_POINTS, RESERVED, Launch, StudySettings


def expand(launch: Launch) -> dict[str, Point]:
    """Every distinct run of the grid by its run_id.

    Points that differ only in settings a run does not use (one from scratch reads no pre-training settings)
    are one run. Raises ``ConfigError`` with the problems of all points.
    """
    launch = resolved(launch)
    wrong = tuning.complaints(launch)
    problems = [*grids.complaints(launch.pairs, launch.grid_name, launch.grid), *wrong]
    if wrong or grids.count(launch.grid) > MOST_POINTS:
        raise ConfigError(problems)
    points: dict[str, Point] = {}
    varying = [*launch.grid.zip, *launch.grid.axes]
    configurations = Configurations(("pretrain", *launch.study.tasks))
    tries = tuning.tries(launch)
    for name, values in grids.combinations(launch.grid):
        for wanted, settings in tries:
            read = tuning.read_by(wanted, values, launch.study.tasks)
            for pairs in _variants(launch.study, _point_pairs(launch, read)):
                try:
                    config = configurations.build(_with(pairs, settings))
                except ConfigError as error:
                    problems += error.problems
                    break  # its control from scratch would say the same again
                problems += tuning.unscored(launch, config)
                own = _own_values(config, read)
                tasks = tuple(task for task in config.tasks if task in wanted)
                label = _label(config, name, {key: value for key, value in own.items() if key in varying})
                tuned = {key: operator.attrgetter(key)(config) for key in settings}
                if tasks:  # without fine-tuning there is nothing that a control from scratch could do
                    _add(points, Point(config, label, own, tasks, tuned))
    if not (points or problems):
        tasks_named = ",".join(launch.study.tasks)
        problems.append(f"study.tasks=[{tasks_named}]: runs that start from other weights do no pre-training")
    if not problems:
        problems = _unread(launch, points)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return branches.connect(points, launch.study_dir / "runs") if launch.branch else points


def _add(points: dict[str, Point], point: Point) -> None:
    """Add a run to ``points``; one that is there already does the tasks of both."""
    run_id = point.config.run_id
    there = points.get(run_id, point)
    tasks = tuple(task for task in TASKS if task in {*there.tasks, *point.tasks})
    points[run_id] = dataclasses.replace(there, tasks=tasks, tuned={**there.tuned, **point.tuned})


def _with(pairs: Pairs, settings: dict[str, Any]) -> Pairs:
    return overrides.overlay(pairs, overrides.pairs_from_mapping(settings, "study.tuned"))


def _unread(launch: Launch, points: dict[str, Point]) -> list[str]:
    """Complaints about settings that vary and that no run depends on: there would be fewer runs than were asked for."""
    read = {key for point in points.values() for key in point.values}
    return [
        f"grid={launch.grid_name}: {key} varies, and no run depends on it"
        for key in grids.varied(launch.grid)
        if key in overrides.KEYS and key not in read
    ]


def resolved(launch: Launch) -> Launch:
    """``launch`` with the points that its rule and ``branch`` stand for."""
    if launch.grid.rule == "isoflop":
        launch = isoflop.with_points(launch, _point_pairs)
    return branches.with_points(launch, _point_pairs) if launch.branch else launch


def unmet(launch: Launch) -> dict[str, str]:
    """{point: reason} of the points that a rule asks for and that cannot be made."""
    return isoflop.cells(launch, _point_pairs)[1] if launch.grid.rule == "isoflop" else {}


def _point_pairs(launch: Launch, values: dict[str, Any]) -> Pairs:
    """Settings of one point, weakest first: the study's, the grid's, the axes', the command line's."""
    mappings = {"study.run": launch.study.run, "grid.set": launch.grid.set, "grid": values}
    pairs: Pairs = []
    for source, mapping in mappings.items():
        pairs = overrides.overlay(pairs, overrides.pairs_from_mapping(mapping, source))
    return overrides.overlay(pairs, [pair for pair in launch.pairs if pair[0] not in RESERVED])


def _variants(study: StudySettings, pairs: Pairs) -> Iterator[Pairs]:
    """The point itself and, where the study asks for it, its control from random weights."""
    if dict(pairs).get("init", "pretrain") == "pretrain":
        yield pairs
        if not study.scratch_control:
            return
        pairs = [*pairs, ("init", "scratch")]
    yield [*pairs, ("task", "classify")]


def _own_values(config: RunConfig, values: dict[str, Any]) -> dict[str, Any]:
    """The axis values that the run depends on, as they ended up in its configuration."""
    identity = config.identity()
    return {key: identity[key] for key in values if key in identity}


def _label(config: RunConfig, name: str, values: dict[str, Any]) -> str:
    """A point's own name and what varies beside it; the seed is no part of it, so that seeds can be averaged."""
    settings: dict[str, set[str]] = {}
    for key, value in values.items():
        settings.setdefault(key.split(".")[-1], set()).add(_short(value))
    parts = [name] if name else []
    for key, value in values.items():
        short = key.split(".")[-1]
        shown = short if len(settings[short]) == 1 else key  # tasks may share a setting's name, and its value
        if key != "seed":
            parts.append(_short(value) if key == "model.size" else f"{shown}={_short(value)}")
    return " ".join(dict.fromkeys(parts)) or config.model.size


def _short(value: Any) -> str:
    """A value as short as it can be told from every other."""
    if not isinstance(value, float):
        return str(value)
    text = f"{value:g}"
    return text if float(text) == value else repr(value)
