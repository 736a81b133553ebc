"""From a grid and a study to the runs, each with what it costs; and the plan file that records them."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nepa_scale import checks, ds_config, overrides
from nepa_scale.config import TASKS, RunConfig
from nepa_scale.costs import task_cost
from nepa_scale.errors import ConfigError, UserError
from nepa_scale.files import read_json, write_json
from sweeps.machine import Speed, world_size
from sweeps.settings import GridSettings, Launch, StudySettings

SCHEMA = 1
PLAN_NAME = "plan.json"
RESERVED = {
    "task": "the launcher runs every task of a run",
    "run_dir": "the launcher names the folders of runs; study_dir=DIR says where they go",
    "data": "say which task's: pretrain.dataset, classify.dataset or segment.dataset",
}

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class PlannedTask:
    """What one task of a run will cost; ``seconds`` is None where the speed of the devices is not known."""

    params_total: int
    params_backbone: int
    images: int
    flops: int
    memory_bytes: int
    seconds: float | None


@dataclass(frozen=True)
class PlannedRun:
    """One run. ``values`` are its settings of the varied axes, ``label`` the short name made from them."""

    run_id: str
    label: str
    init: str
    values: dict[str, Any]
    tasks: dict[str, PlannedTask]


@dataclass(frozen=True)
class Plan:
    """The runs of a study directory."""

    study: str
    grid: str
    axes: tuple[str, ...]
    runs: tuple[PlannedRun, ...]

    @property
    def titles(self) -> dict[str, str]:
        """{run_id/task: name of the task for people}."""
        control = {"pretrain": "", "scratch": " from scratch"}
        return {
            f"{run.run_id}/{task}": f"{run.label} {task}{control.get(run.init, f' from {run.init}')}"
            for run in self.runs
            for task in run.tasks
        }


def expand(launch: Launch) -> dict[str, tuple[RunConfig, dict[str, Any]]]:
    """Every distinct run of the grid: {run_id: (configuration, values of the varied axes)}.

    Points that differ only in settings a run does not use (one from scratch reads no pre-training settings)
    are one run. Raises ``ConfigError`` with the problems of all points.
    """
    axes = _axes(launch.grid)
    problems = _reserved(launch.pairs, launch.grid_name, axes)
    runs: dict[str, tuple[RunConfig, dict[str, Any]]] = {}
    for point in itertools.product(*axes.values()):
        values = dict(zip(axes, point, strict=True))
        for pairs in _variants(launch.study, _point_pairs(launch, values)):
            try:
                config = overrides.build(pairs, all_tasks=True)
            except ConfigError as error:
                problems += error.problems
                break  # its control from scratch would say the same again
            else:
                runs.setdefault(config.run_id, (config, _own_values(config, values)))
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return runs


def price(launch: Launch, runs: dict[str, tuple[RunConfig, dict[str, Any]]], speed: Speed) -> Plan:
    """The plan of the expanded ``runs``. Raises ``DataError`` when a data set cannot be read."""
    planned = tuple(
        PlannedRun(
            run_id=run_id,
            label=_label(config, values),
            init=config.init,
            values=values,
            tasks={task: _price_task(config, task, world_size(launch.cluster), speed) for task in config.tasks},
        )
        for run_id, (config, values) in runs.items()
    )
    return Plan(launch.study.name, launch.grid_name, tuple(_axes(launch.grid)), planned)


def check(configs: Sequence[RunConfig], devices: int) -> None:
    """Raises ``ConfigError`` with what would stop the tasks: data, batches, the DeepSpeed file."""
    problems: list[str] = []
    seen: set[tuple[Any, ...]] = set()
    for config in configs:
        for task in config.tasks:
            section = config.task_config(task)
            reads = (config.data.root, section.dataset, section.num_images, task)
            if reads not in seen:
                problems += checks.check_data(config, (task,))
            seen.add(reads)
            try:
                ds_config.resolve(config, task, world_size=devices, num_params=1)
            except ConfigError as error:
                problems += error.problems
        problems += checks.check_batches(config, config.tasks, devices)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def merge(earlier: Plan | None, plan: Plan) -> Plan:
    """``plan`` with the runs of an ``earlier`` plan of the same directory kept before its own."""
    if earlier is None:
        return plan
    new = {run.run_id: run for run in plan.runs}
    kept = tuple(new.pop(run.run_id, run) for run in earlier.runs)
    axes = tuple(dict.fromkeys((*earlier.axes, *plan.axes)))
    return dataclasses.replace(plan, axes=axes, runs=(*kept, *new.values()))


def save(plan: Plan, study_dir: Path) -> None:
    """Write the plan file of ``study_dir``."""
    write_json(study_dir / PLAN_NAME, {"schema": SCHEMA, **dataclasses.asdict(plan)})


def load(study_dir: Path) -> Plan | None:
    """Read the plan file of ``study_dir``; None without one. Raises ``UserError`` when it is damaged."""
    path = study_dir / PLAN_NAME
    try:
        content = read_json(path)
        if content["schema"] != SCHEMA:
            raise UserError(
                f"{path}: schema {content['schema']} was written by another version; this one reads {SCHEMA}"
            )
        return Plan(content["study"], content["grid"], tuple(content["axes"]), tuple(map(_read_run, content["runs"])))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not a plan file ({type(error).__name__}: {error}); move it away or restore it"
        ) from None


def run_dir(study_dir: Path, run_id: str) -> Path:
    """The folder of one run."""
    return study_dir / "runs" / run_id


def _read_run(content: dict[str, Any]) -> PlannedRun:
    tasks = {name: PlannedTask(**task) for name, task in content["tasks"].items()}
    return PlannedRun(**{**content, "tasks": tasks})


def _axes(grid: GridSettings) -> dict[str, list[Any]]:
    return {key: values if isinstance(values, list) else [values] for key, values in grid.axes.items()}


def _reserved(pairs: Sequence[tuple[str, str]], grid: str, axes: dict[str, list[Any]]) -> list[str]:
    """Complaints about settings that are not the user's to give here, and about empty axes."""
    problems = [f"{key}={text}: {RESERVED[key]}" for key, text in pairs if key in RESERVED]
    for key, text in pairs:
        axis = "model.size" if key == "model" else key
        if axis in axes:
            problems.append(f"{key}={text}: grid={grid} varies this setting; choose with grid.axes.{axis}=[{text}]")
    problems += [f"grid.axes.{key}: no values" for key, values in axes.items() if not values]
    without_effect = [key for key in axes if overrides.KEYS.get(key, {}).get("orchestration")]
    problems += [f"grid.axes.{key}: changes how work is done, not its result; it cannot vary" for key in without_effect]
    return problems if axes else [*problems, f"grid={grid}: no axes; give grid.axes.SETTING=[...]"]


def _point_pairs(launch: Launch, values: dict[str, Any]) -> Pairs:
    """Settings of one point, weakest first: the study's, the grid's, the axes', the command line's."""
    mappings = {"study.run": launch.study.run, "grid.set": launch.grid.set, "grid.axes": values}
    pairs: Pairs = []
    for source, mapping in mappings.items():
        pairs = _overlay(pairs, overrides.pairs_from_mapping(mapping, source))
    return _overlay(pairs, [pair for pair in launch.pairs if pair[0] not in RESERVED])


def _overlay(weak: Pairs, strong: Pairs) -> Pairs:
    """Both, in order; a length given in steps replaces a weaker one in epochs, and the other way round."""
    given = {key for key, text in strong if text != "null"}
    replaced = {f"{task}.epochs" for task in TASKS if f"{task}.steps" in given}
    replaced |= {f"{task}.steps" for task in TASKS if f"{task}.epochs" in given}
    return [pair for pair in weak if pair[0] not in replaced] + strong


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


def _label(config: RunConfig, values: dict[str, Any]) -> str:
    parts = [str(value) if key == "model.size" else f"{key.split('.')[-1]}={value}" for key, value in values.items()]
    return " ".join(parts) or config.model.size


def _price_task(config: RunConfig, task: str, devices: int, speed: Speed) -> PlannedTask:
    stage = ds_config.zero_stage(config, devices)
    cost = task_cost(config, task, world_size=devices, zero_stage=stage)
    return PlannedTask(
        params_total=cost.params_total,
        params_backbone=cost.params_backbone,
        images=cost.images_seen,
        flops=cost.flops_train,
        memory_bytes=cost.memory_bytes,
        seconds=speed.seconds(cost.flops_train),
    )
