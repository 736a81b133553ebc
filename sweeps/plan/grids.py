"""What a grid declares: its points, each with its settings, and the values at which fine-tuning is tuned.

``study.tuned`` and ``grid.tuned`` are settings of fine-tuning at which every arm is tried. Each task varies its own
settings only, in a run for each of their values, beside the run of the other tasks. The analysis chooses among these
runs by the score on the tuning images.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nepa_scale.config import overrides
from nepa_scale.config.registry import PRETRAIN, TASKS, finetuned
from nepa_scale.config.schema import RunConfig
from sweeps.settings.schema import MOST_POINTS, RESERVED, GridSettings, Launch, listed

Pairs = list[tuple[str, str]]
SEED = "seed"
SCORED_BY = ("dataset", "tuning_images")  # scores at different values of these cannot be compared
TUNABLE_TASKS = tuple(task.name for task in finetuned())
Try = tuple[tuple[str, ...], dict[str, Any]]
"""Tasks of a run, and their tuned settings."""


@dataclass(frozen=True)
class RunSpec:
    """One run of a grid, before its cost is known: ``values`` are its settings that vary, ``label`` its short name."""

    config: RunConfig
    label: str
    values: dict[str, Any]
    tasks: tuple[str, ...]
    tuned: dict[str, Any] = field(default_factory=dict)
    """The tuned settings of its tasks; the analysis chooses among runs that differ only in these."""
    pretrained_by: str | None = None
    """The run whose equal pre-training this one uses in place of its own."""
    branched_from: str | None = None
    """The longer run from whose pre-training this one branches off."""


def combinations(grid: GridSettings) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name of the point or "", settings) for every point, times every row, times every combination of the axes.

    A point that names a value of an axis has that value alone.
    """
    axes = listed(grid.axes)
    for name, settings in (grid.points or {"": {}}).items():
        for repetition in _repetitions(settings):
            for row in _rows(grid):
                for values in itertools.product(*axes.values()):
                    chosen = dict(zip(axes, values, strict=True))
                    if all(settings.get(key, value) == value for key, value in chosen.items()):
                        yield name, {**settings, **repetition, **row, **chosen}


def varied_settings(grid: GridSettings) -> tuple[str, ...]:
    """The settings that differ between runs, those of points that are yet to be computed included."""
    named = [key for settings in grid.points.values() for key in settings]
    computed = ["model.size", "pretrain.steps"] if grid.rule == "isoflop" else []
    return tuple(dict.fromkeys([*named, *grid.zip, *grid.axes, *computed]))


def count_points(grid: GridSettings) -> int:
    """How many points there are, without listing them."""
    rows = map(len, listed(grid.zip).values())
    points = sum(len(_repetitions(settings)) for settings in grid.points.values())
    return math.prod([max(1, points), min(rows, default=1), *map(len, listed(grid.axes).values())])


def typed_problems(pairs: Sequence[tuple[str, str]], name: str, grid: GridSettings) -> list[str]:
    """What is wrong with run settings, ``pairs``, typed beside the grid called ``name``."""
    axes, varying = grid.axes, varied_settings(grid)
    problems = [f"{key}={text}: {RESERVED[key]}" for key, text in pairs if key in RESERVED]
    for key, text in pairs:
        axis = "model.size" if key == "model" else key
        if axis in axes:
            problems.append(f"{key}={text}: grid={name} varies this setting; choose with grid.axes.{axis}=[{text}]")
        elif axis in varying:
            problems.append(f"{key}={text}: grid={name} varies this setting")
        problems += [
            f"{key}={text}: grid={name} varies {other}, whose place it would take; leave it out"
            for other in _displaced(key, text, varying)
        ]
    return problems


def _displaced(key: str, text: str, others: Collection[str]) -> list[str]:
    """Those of ``others`` that no run has beside ``key=text``."""
    displaced = overrides.excluded([key] if text != "null" else [])
    return [other for other in others if other in displaced]


def grid_problems(name: str, grid: GridSettings) -> list[str]:
    """What is wrong with the grid called ``name``."""
    axes, varying = listed(grid.axes), varied_settings(grid)
    problems = [f"grid.axes.{key}: no values" for key, values in axes.items() if not values]
    problems += [f"grid.zip.{key}: no values" for key, values in grid.zip.items() if values == []]
    problems += [
        f"grid.{part}.{key}: it stands for other settings; vary those, or name points with grid.points.NAME.{key}=..."
        for part, settings in (("axes", axes), ("zip", grid.zip))
        for key in settings
        if key not in overrides.KEYS
    ]
    without_effect = [key for key in varying if overrides.KEYS.get(key, {}).get("orchestration")]
    problems += [
        f"grid={name}: {key} changes how work is done, not its result; it cannot vary" for key in without_effect
    ]
    if count_points(grid) > MOST_POINTS:
        problems.append(
            f"grid={name}: {count_points(grid)} points; at most {MOST_POINTS} can be planned: give shorter lists"
        )
    return problems if varying or grid.tuned else [*problems, f"grid={name}: no axes; give grid.axes.SETTING=[...]"]


def _repetitions(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The seeds of a named point that lists several: it is run once with each."""
    seeds = settings.get("seed")
    return [{"seed": seed} for seed in seeds] if isinstance(seeds, list) else [{}]


def _rows(grid: GridSettings) -> list[dict[str, Any]]:
    """The settings that vary together, one dictionary a point; a single empty one where there are none."""
    columns = listed(grid.zip)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)] if columns else [{}]


class Configurations:
    """Builds and checks configurations, once for points that differ only in their seed.

    ``tasks`` are those whose settings are checked.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        self._tasks = tasks
        self._known: dict[tuple[tuple[str, str], ...], RunConfig] = {}
        self._seeds: dict[str | None, int] = {}

    def build(self, pairs: Sequence[tuple[str, str]]) -> RunConfig:
        """The configuration of ``pairs``. Raises ``ConfigError`` with every problem in it."""
        rest = tuple(pair for pair in pairs if pair[0] != SEED)
        seed = dict(pairs).get(SEED)
        if rest in self._known and seed in self._seeds:
            return dataclasses.replace(self._known[rest], seed=self._seeds[seed])
        config = overrides.build(pairs, tasks=self._tasks)
        self._known[rest], self._seeds[seed] = config, config.seed
        return config


def tuned_settings(launch: Launch) -> dict[str, list[Any]]:
    """{setting: its values} of what is tuned, as far as the study has the task."""
    tuned = listed({**launch.study.tuned, **launch.grid.tuned})
    return {key: values for key, values in tuned.items() if key.split(".")[0] in launch.study.tasks}


def tuning_tries(launch: Launch) -> list[Try]:
    """What the runs of one point do: the first all tasks that are not tuned, each other one a task at one value."""
    by_task = _by_task(tuned_settings(launch))
    others = tuple(task for task in dict.fromkeys((PRETRAIN.name, *launch.study.tasks)) if task not in by_task)
    tries: list[Try] = [(others, {})]
    for task, settings in by_task.items():
        tries += [
            ((PRETRAIN.name, task), dict(zip(settings, values, strict=True)))
            for values in itertools.product(*settings.values())
        ]
    return tries


def _by_task(tuned: Mapping[str, list[Any]]) -> dict[str, dict[str, list[Any]]]:
    """{task: {setting: its values}} of the tasks that are tuned."""
    by_task: dict[str, dict[str, list[Any]]] = {task: {} for task in TUNABLE_TASKS}
    for key, values in tuned.items():
        by_task.setdefault(key.split(".")[0], {})[key] = values
    return {task: settings for task, settings in by_task.items() if settings}


def read_by(tasks: Sequence[str], values: Mapping[str, Any], study_tasks: Sequence[str]) -> dict[str, Any]:
    """The ``values`` of a point that a run of ``tasks`` depends on: without those of the study's other tasks."""
    unread = {task for task in study_tasks if task not in (*tasks, PRETRAIN.name)}
    return {key: value for key, value in values.items() if key.split(".")[0] not in unread}


def unread(launch: Launch, run_specs: Sequence[RunSpec]) -> list[str]:
    """A problem for each varied setting that no run depends on: fewer runs would differ than the grid asks for.

    Of settings that vary together one may belong to a task that the study leaves out. Where it leaves out all but
    pre-training, points that differ in others are one run.
    """
    points = [values for _, values in combinations(launch.grid)]
    varied = [key for key in varied_settings(launch.grid) if key in overrides.KEYS]
    tasks = TASKS if {*launch.study.tasks} == {PRETRAIN.name} else ()
    read = {key for key in varied if _is_read(key, points, run_specs, tasks)}
    if read.intersection(launch.grid.zip):
        read.update(key for key in launch.grid.zip if key.partition(".")[0] not in launch.study.tasks)
    remedy = "take it out of the grid, or add its task to study.tasks"
    return [
        f"grid={launch.grid_name}: {key} varies, and no run depends on it: {remedy}"
        for key in varied
        if key not in read
    ]


def _is_read(key: str, points: Sequence[Mapping[str, Any]], run_specs: Sequence[RunSpec], tasks: Sequence[str]) -> bool:
    """Whether runs that do the task of ``key``, or any where it is of ``tasks``, depend on it.

    Where ``points`` have several values of it, so must these runs.
    """
    task = key.partition(".")[0]
    doing = [run_spec for run_spec in run_specs if task not in TASKS or task in (*tasks, *run_spec.tasks)]
    asked = {str(values[key]) for values in points if key in values}
    found = {str(operator.attrgetter(key)(run_spec.config)) for run_spec in doing}
    return any(key in run_spec.values for run_spec in doing) and (len(found) > 1 or len(asked) == 1)


def tuning_problems(launch: Launch) -> list[str]:
    """What is wrong with the tuned settings of a launch."""
    problems, tuned = [], tuned_settings(launch)
    for path, settings in {"study.tuned": launch.study.tuned, "grid.tuned": launch.grid.tuned}.items():
        for key in settings:
            task, _, name = key.partition(".")
            if task not in TUNABLE_TASKS:
                problems.append(f"{path}.{key}: only settings of {' and '.join(TUNABLE_TASKS)} can be tuned")
            elif key in overrides.RECIPE_KEYS:
                problems.append(f"{path}.{key}: a recipe is many settings; tune single ones, such as {task}.base_lr")
            elif overrides.KEYS[key]["orchestration"]:
                problems.append(f"{path}.{key}: it changes how work is done, not its result; it cannot be tuned")
            elif name in SCORED_BY:
                problems.append(f"{path}.{key}: other values of it are scored on other images; it cannot be tuned")
    problems += _typed_and_tuned(launch, tuned)
    varied = varied_settings(launch.grid)
    problems += [
        f"{_path(launch, key)}: grid={launch.grid_name} varies {other}, too; leave out one of the two"
        for key in tuned
        for other in (key, *_displaced(key, "", varied))
        if other in varied
    ]
    problems += [f"{_path(launch, key)}: no values" for key, values in tuned.items() if not values]
    tries = [math.prod(map(len, settings.values())) for settings in _by_task(tuned).values()]
    runs = count_points(launch.grid) * max(1, sum(tries))
    if runs > MOST_POINTS:
        problems.append(f"{', '.join(tuned)}: {runs} runs; at most {MOST_POINTS} can be planned: give shorter lists")
    return problems


def _typed_and_tuned(launch: Launch, tuned: Collection[str]) -> list[str]:
    """A problem for each typed setting that is tuned, or in the place of a tuned one."""
    problems = []
    for key, text in launch.pairs:
        if key in tuned:
            path, none = _path(launch, key), "" if key in launch.grid.tuned else ", or tune nothing: study.tuned={}"
            problems.append(f"{key}={text}: {path} tries several values; choose with {path}=[{text}]{none}")
        problems += [
            f"{key}={text}: {_path(launch, other)} tries several values, whose place it would take; leave it out"
            for other in _displaced(key, text, tuned)
        ]
    return problems


def unscored(launch: Launch, config: RunConfig) -> list[str]:
    """A problem for each tuned task of a run that has no images to be chosen by."""
    return [
        f"{task}.tuning_images=0: {_path(launch, key)} is chosen by images that are not trained on;"
        f" give their number, e.g. {task}.tuning_images=500"
        for task, section in config.finetuning.items()
        for key in tuned_settings(launch)
        if key.startswith(f"{task}.") and not section.tuning_images
    ]


def _path(launch: Launch, key: str) -> str:
    return f"{'grid' if key in launch.grid.tuned else 'study'}.tuned.{key}"
