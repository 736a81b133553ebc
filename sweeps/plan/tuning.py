"""Settings of fine-tuning that every arm is tried at: ``study.tuned`` and, for grids over them, ``grid.tuned``.

Each task varies by its own settings alone, in a run of its own for each of their values beside the run of the other
tasks. Of these runs the analysis chooses by the score on the tuning images.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from nepa_scale.config import overrides
from nepa_scale.config.schema import RunConfig
from sweeps.plan import grids
from sweeps.settings.schema import MOST_POINTS, Launch

TUNABLE_TASKS = tuple(RunConfig().finetuning)
SCORED_BY = ("dataset", "tuning_images")  # other values of these make scores that cannot be compared

Try = tuple[tuple[str, ...], dict[str, Any]]
"""Tasks of a run, and the values that they are tried at."""


def tuned_settings(launch: Launch) -> dict[str, list[Any]]:
    """{setting: its values} of the tasks that the study has."""
    return {
        key: values if isinstance(values, list) else [values]
        for key, values in {**launch.study.tuned, **launch.grid.tuned}.items()
        if key.split(".")[0] in launch.study.tasks
    }


def tuning_tries(launch: Launch) -> list[Try]:
    """What the runs of one point and one start do: the tasks that are not tuned, then each tuned one at each value."""
    by_task = _by_task(tuned_settings(launch))
    others = tuple(task for task in dict.fromkeys(("pretrain", *launch.study.tasks)) if task not in by_task)
    made: list[Try] = [(others, {})]
    for task, settings in by_task.items():
        made += [
            (("pretrain", task), dict(zip(settings, values, strict=True)))
            for values in itertools.product(*settings.values())
        ]
    return made


def _by_task(found: Mapping[str, list[Any]]) -> dict[str, dict[str, list[Any]]]:
    """{task: {setting: its values}} of the tasks that are tuned."""
    by_task: dict[str, dict[str, list[Any]]] = {task: {} for task in TUNABLE_TASKS}
    for key, values in found.items():
        by_task.setdefault(key.split(".")[0], {})[key] = values
    return {task: settings for task, settings in by_task.items() if settings}


def read_by(wanted: Sequence[str], values: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Any]:
    """The ``values`` of a point that runs of the ``wanted`` tasks depend on: none of the study's other tasks'."""
    unread = {task for task in tasks if task not in (*wanted, "pretrain")}
    return {key: value for key, value in values.items() if key.split(".")[0] not in unread}


def tuning_problems(launch: Launch) -> list[str]:
    """What is wrong with how a launch says what is tuned."""
    problems, found = [], tuned_settings(launch)
    for path, settings in {"study.tuned": launch.study.tuned, "grid.tuned": launch.grid.tuned}.items():
        for key in settings:
            task, _, name = key.partition(".")
            if task not in TUNABLE_TASKS:
                problems.append(f"{path}.{key}: only settings of {' and '.join(TUNABLE_TASKS)} can be tuned")
            elif overrides.KEYS[key]["orchestration"]:
                problems.append(f"{path}.{key}: it changes how work is done, not its result; it cannot be tuned")
            elif name in SCORED_BY:
                problems.append(f"{path}.{key}: other values of it are scored on other images; it cannot be tuned")
    problems += [
        f"{key}={text}: {_path(launch, key)} tries several values" for key, text in launch.pairs if key in found
    ]
    varied = grids.varied_settings(launch.grid)
    problems += [f"{_path(launch, key)}: grid={launch.grid_name} varies it, too" for key in found if key in varied]
    problems += [f"{_path(launch, key)}: no values" for key, values in found.items() if not values]
    each = [math.prod(map(len, settings.values())) for settings in _by_task(found).values()]
    runs = grids.count_points(launch.grid) * max(1, sum(each))
    if runs > MOST_POINTS:
        problems.append(f"{', '.join(found)}: {runs} runs; at most {MOST_POINTS} can be planned: give shorter lists")
    return problems


def unscored(launch: Launch, config: RunConfig) -> list[str]:
    """Complaints about tuned tasks of a run that have no images to be chosen by."""
    return [
        f"{task}.tuning_images=0: {_path(launch, key)} is chosen by images that are not trained on;"
        f" give their number, e.g. {task}.tuning_images=500"
        for task, section in config.finetuning.items()
        for key in tuned_settings(launch)
        if key.startswith(f"{task}.") and not section.tuning_images
    ]


def _path(launch: Launch, key: str) -> str:
    return f"{'grid' if key in launch.grid.tuned else 'study'}.tuned.{key}"
