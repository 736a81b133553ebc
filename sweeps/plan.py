"""From a grid and a study to the runs, each with what it costs; and the plan file that records them."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nepa_scale import checks, overrides
from nepa_scale.config import TASKS, RunConfig, config_digest
from nepa_scale.costs import task_cost
from nepa_scale.errors import ConfigError, UserError
from nepa_scale.files import read_json, write_json
from nepa_scale.placing import ds_config
from nepa_scale.placing.placement import Placement
from nepa_scale.runs import check_start, is_finished
from sweeps import branches, isoflop
from sweeps.configurations import Configurations
from sweeps.machine import Speed
from sweeps.placements import Placements
from sweeps.resources import Resources, of_cluster
from sweeps.settings import GridSettings, Launch, StudySettings

SCHEMA = 1
PLAN_NAME = "plan.json"
RESERVED = {
    "task": "the launcher runs every task of a run",
    "run_dir": "the launcher names the folders of runs; study_dir=DIR says where they go",
    "data": "say which task's: pretrain.dataset, probe.dataset, classify.dataset or segment.dataset",
    "pretrain_dir": "the launcher shares pre-training by itself; init=DIR starts from finished weights",
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
    resources: Resources = field(default_factory=Resources)
    """What the task asks of the machines; the default is read for plans written before this was recorded."""
    flops_inherited: int = 0
    """Of ``flops``, those that were done by the run from which this one branches off."""


@dataclass(frozen=True)
class Point:
    """One run of a grid before it is priced: ``values`` are its settings of what varies, ``label`` its short name."""

    config: RunConfig
    label: str
    values: dict[str, Any]
    tasks: tuple[str, ...]
    pretrained_by: str | None = None
    """The run whose pre-training this one uses instead of an equal one of its own."""
    branched_from: str | None = None
    """The longer run in whose pre-training this one's begins."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study directory, as ``Point``; ``pretraining`` tells equal pre-trainings."""

    run_id: str
    label: str
    init: str
    values: dict[str, Any]
    tasks: dict[str, PlannedTask]
    pretraining: str | None = None
    pretrained_by: str | None = None
    branched_from: str | None = None


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
            f"{run.run_id}/{task}": f"{run.label}{_seed(run)} {task}{control.get(run.init, f' from {run.init}')}"
            for run in self.runs
            for task in run.tasks
        }


def expand(launch: Launch) -> dict[str, Point]:
    """Every distinct run of the grid by its run_id.

    Points that differ only in settings a run does not use (one from scratch reads no pre-training settings)
    are one run. Raises ``ConfigError`` with the problems of all points.
    """
    launch = _resolved(launch)
    problems = _reserved(launch.pairs, launch.grid_name, launch.grid)
    points: dict[str, Point] = {}
    configurations = Configurations(("pretrain", *launch.study.tasks))
    for name, values in _combinations(launch.grid):
        for pairs in _variants(launch.study, _point_pairs(launch, values)):
            try:
                config = configurations.build(pairs)
            except ConfigError as error:
                problems += error.problems
                break  # its control from scratch would say the same again
            own = _own_values(config, values)
            tasks = tuple(task for task in config.tasks if task in ("pretrain", *launch.study.tasks))
            points.setdefault(config.run_id, Point(config, _label(config, name, own), own, tasks))
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return branches.connect(points, launch.study_dir / "runs") if launch.branch else points


def _resolved(launch: Launch) -> Launch:
    """``launch`` with the points that its rule and ``branch`` stand for."""
    if launch.grid.rule == "isoflop":
        launch = isoflop.with_points(launch, _point_pairs)
    return branches.with_points(launch, _point_pairs) if launch.branch else launch


def share_pretraining(points: dict[str, Point], earlier: Plan | None, study_dir: Path) -> dict[str, Point]:
    """Let each pre-training be done once: of runs that differ only in what comes after it, the first does it.

    A run of an ``earlier`` plan whose pre-training is finished comes before those of this one.
    """
    done = [
        run for run in (earlier.runs if earlier else ()) if is_finished(run_dir(study_dir, run.run_id) / "pretrain")
    ]
    owners = {run.pretraining: run.run_id for run in reversed(done) if run.pretraining}
    shared = {}
    for run_id, point in points.items():
        owner = owners.setdefault(_pretraining(point.config), run_id)
        if point.config.init != "pretrain" or owner == run_id:
            shared[run_id] = point
        else:
            where = str((run_dir(study_dir, owner) / "pretrain").absolute())
            config = dataclasses.replace(point.config, pretrain_dir=where)
            shared[run_id] = dataclasses.replace(point, config=config, tasks=point.tasks[1:], pretrained_by=owner)
    return shared


def price(launch: Launch, points: dict[str, Point], speed: Speed, placed: Placements) -> Plan:
    """The plan of the expanded ``points``. Raises ``DataError`` when a data set cannot be read."""
    resources = of_cluster(launch.cluster)
    launch = _resolved(launch)
    planned = tuple(
        PlannedRun(
            run_id=run_id,
            label=point.label,
            init=point.config.init,
            values=point.values,
            tasks={
                task: _price_task(point, task, resources, placed.of(point.config, task), speed) for task in point.tasks
            },
            pretraining=_pretraining(point.config) if point.config.init == "pretrain" else None,
            pretrained_by=point.pretrained_by,
            branched_from=point.branched_from,
        )
        for run_id, point in points.items()
    )
    return Plan(launch.study.name, launch.grid_name, _varied(launch.grid), planned)


def check(points: Iterable[Point], devices: int) -> None:
    """Raises ``ConfigError`` with what would stop the tasks: data, batches, the DeepSpeed file."""
    problems: list[str] = []
    seen: set[tuple[Any, ...]] = set()
    for point in points:
        config = point.config
        for task in point.tasks:
            section = config.task_config(task)
            reads = (config.data.root, section.dataset, section.num_images, section.fraction, task)
            if reads not in seen:
                problems += checks.check_data(config, (task,))
            seen.add(reads)
            problems += ds_config.check(config, task)
        problems += checks.check_batches(config, point.tasks, devices)
        if config.init != "pretrain":
            for task in point.tasks:
                problems += check_start(Path(), dataclasses.replace(config, task=task))
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def too_large(points: Iterable[Point], placed: Placements) -> list[str]:
    """A line for every task that a device cannot hold."""
    lines = []
    for point in points:
        for task in point.tasks:
            problem = placed.of(point.config, task).problem
            lines += [f"{point.label} {task}: {problem}"] if problem is not None else []
    return list(dict.fromkeys(lines))


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


def task_dir(study_dir: Path, key: str) -> Path:
    """The folder of the task ``key``, run_id/task."""
    return study_dir / "runs" / key


def _read_run(content: dict[str, Any]) -> PlannedRun:
    tasks = {
        name: PlannedTask(**{**task, "resources": Resources(**task.get("resources", {}))})
        for name, task in content["tasks"].items()
    }
    return PlannedRun(**{**content, "tasks": tasks})


def _axes(grid: GridSettings) -> dict[str, list[Any]]:
    return {key: values if isinstance(values, list) else [values] for key, values in grid.axes.items()}


def _rows(grid: GridSettings) -> list[dict[str, Any]]:
    """The settings that vary together, a point each; one without any where there are none."""
    columns = {key: values if isinstance(values, list) else [values] for key, values in grid.zip.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)] if columns else [{}]


def _combinations(grid: GridSettings) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name of the point or "", settings) for every point, times every row, times every combination of the axes."""
    axes = _axes(grid)
    for name, settings in (grid.points or {"": {}}).items():
        for row in _rows(grid):
            for values in itertools.product(*axes.values()):
                yield name, {**settings, **row, **dict(zip(axes, values, strict=True))}


def _varied(grid: GridSettings) -> tuple[str, ...]:
    """The settings that differ between runs."""
    named = [key for settings in grid.points.values() for key in settings]
    return tuple(dict.fromkeys([*named, *grid.zip, *_axes(grid)]))


def _reserved(pairs: Sequence[tuple[str, str]], name: str, grid: GridSettings) -> list[str]:
    """Complaints about settings that are not the user's to give here, and about empty axes."""
    axes, varied = _axes(grid), _varied(grid)
    problems = [f"{key}={text}: {RESERVED[key]}" for key, text in pairs if key in RESERVED]
    for key, text in pairs:
        axis = "model.size" if key == "model" else key
        if axis in axes:
            problems.append(f"{key}={text}: grid={name} varies this setting; choose with grid.axes.{axis}=[{text}]")
        elif axis in varied:
            problems.append(f"{key}={text}: grid={name} varies this setting")
    problems += [f"grid.axes.{key}: no values" for key, values in axes.items() if not values]
    problems += [f"grid.zip.{key}: no values" for key, values in grid.zip.items() if values == []]
    without_effect = [key for key in varied if overrides.KEYS.get(key, {}).get("orchestration")]
    problems += [f"grid.axes.{key}: changes how work is done, not its result; it cannot vary" for key in without_effect]
    return problems if varied else [*problems, f"grid={name}: no axes; give grid.axes.SETTING=[...]"]


def _point_pairs(launch: Launch, values: dict[str, Any]) -> Pairs:
    """Settings of one point, weakest first: the study's, the grid's, the axes', the command line's."""
    mappings = {"study.run": launch.study.run, "grid.set": launch.grid.set, "grid": values}
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


def _label(config: RunConfig, name: str, values: dict[str, Any]) -> str:
    """A point's own name, or one made of what varies; the seed is no part of it, so that seeds can be averaged."""
    if name:
        return name
    parts = [
        str(value) if key == "model.size" else f"{key.split('.')[-1]}={_short(value)}"
        for key, value in values.items()
        if key != "seed"
    ]
    return " ".join(dict.fromkeys(parts)) or config.model.size  # tasks may share a setting's name and value


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _seed(run: PlannedRun) -> str:
    return f" seed {run.values['seed']}" if "seed" in run.values else ""


def _pretraining(config: RunConfig) -> str:
    return config_digest(config.pretrain_identity())


def _price_task(point: Point, task: str, resources: Resources, placement: Placement, speed: Speed) -> PlannedTask:
    cost = task_cost(point.config, task, activation_checkpointing=placement.activation_checkpointing)
    inherited = branches.inherited(point, cost.flops_train) if task == "pretrain" else 0
    return PlannedTask(
        params_total=cost.params_total,
        params_backbone=cost.params_backbone,
        images=cost.images_seen,
        flops=cost.flops_train,
        memory_bytes=placement.memory.total,
        seconds=speed.seconds(cost.flops_train - inherited),
        resources=resources,
        flops_inherited=inherited,
    )
