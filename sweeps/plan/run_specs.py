"""From the points of a grid to its planned runs: settings are put together and checked, equal pre-trainings done once,
and each task priced, in FLOPs, memory, time and storage."""

from __future__ import annotations

import dataclasses
import operator
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nepa_scale.config import overrides
from nepa_scale.config.registry import PRETRAIN, TASKS, finetuned
from nepa_scale.config.schema import RunConfig, config_digest
from nepa_scale.placement.costs import FLOPS_CONVENTION, TaskCost, task_cost, task_storage
from nepa_scale.placement.devices import Placement
from nepa_scale.run_dir.run_folder import is_finished
from nepa_scale.run_dir.status import read_status
from nepa_scale.utils.errors import ConfigError, UserError
from sweeps.plan import grids
from sweeps.plan.feasibility import stated_data
from sweeps.plan.grids import (
    Configurations,
    Pairs,
    RunSpec,
    read_by,
    tuning_problems,
    tuning_tries,
    unscored,
    varied_settings,
)
from sweeps.plan.machine import Placements, Speed, of_task, seedless, world_size
from sweeps.plan.measured_times import Measurements, counts, family_of, work_of
from sweeps.plan.plan import Layout, Plan, PlannedRun, PlannedTask, run_dir
from sweeps.plan.rules import (
    FOLLOW_LENGTHS,
    connect_branches,
    first_step,
    isoflop_points,
    with_branch_points,
    with_isoflop_points,
)
from sweeps.settings.schema import MOST_POINTS, RESERVED, Cluster, Launch, SlurmSettings, StudySettings

BASIS = {
    "FLOPs": FLOPS_CONVENTION,
    "storage": "checkpoints that stay (checkpoint.keep, keep_steps) and exported weights, by parameter",
}


def expand(launch: Launch) -> dict[str, RunSpec]:
    """{run_id: run} of every distinct run of the grid.

    Points that differ only in settings that a run does not read are one run: a run from scratch reads no settings of
    pre-training. Raises ``ConfigError`` with the problems of all points.
    """
    problems = grids.typed_problems(launch.pairs, launch.grid_name, launch.grid)
    if problems and (launch.grid.rule or launch.branch):  # whose points would be computed from what is wrong
        raise ConfigError(problems)
    launch = resolved(launch)
    wrongly_tuned = tuning_problems(launch)
    problems += [*grids.grid_problems(launch.grid_name, launch.grid), *wrongly_tuned]
    if wrongly_tuned or grids.count_points(launch.grid) > MOST_POINTS:
        raise ConfigError(problems)
    run_specs: dict[str, RunSpec] = {}
    varying = [*launch.grid.zip, *launch.grid.axes]
    configurations = Configurations((PRETRAIN.name, *launch.study.tasks))
    tries = tuning_tries(launch)
    for name, values in grids.combinations(launch.grid):
        for tried_tasks, settings in tries:
            read = read_by(tried_tasks, values, launch.study.tasks)
            for pairs in _variants(launch.study, _pairs_of_point(launch, read)):
                try:
                    config = configurations.build(_with(pairs, settings))
                except ConfigError as error:
                    problems += error.problems
                    break  # its control from scratch has the same problems
                problems += unscored(launch, config)
                varied = _identity_values(config, read)
                tasks = tuple(task for task in config.tasks if task in tried_tasks)
                label = _label(config, name, {key: value for key, value in varied.items() if key in varying})
                tuned = {key: operator.attrgetter(key)(config) for key in settings}
                if tasks:  # a control from scratch has no pre-training, and so nothing to do without fine-tuning
                    _add(run_specs, RunSpec(config, label, varied, tasks, tuned))
    if not (run_specs or problems):
        tasks_named = ",".join(launch.study.tasks)
        why = "runs that start from other weights do no pre-training; pretrain.init=DIR goes on with it"
        problems.append(f"study.tasks=[{tasks_named}]: {why}")
    if not problems:
        problems = grids.unread(launch, list(run_specs.values()))
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return connect_branches(run_specs, launch.study_dir / "runs") if launch.branch else run_specs


def _add(run_specs: dict[str, RunSpec], run_spec: RunSpec) -> None:
    """Add a run to ``run_specs``; one that is there already takes on its tasks.

    It is of the arm of the task that it tunes, which would be chosen among fewer tries without it.
    """
    run_id = run_spec.config.run_id
    there = run_specs.get(run_id, run_spec)
    arm = run_spec if run_spec.tuned and not there.tuned else there
    run_specs[run_id] = dataclasses.replace(
        there,
        label=arm.label,
        values={**there.values, **arm.values},
        tasks=tuple(task for task in TASKS if task in {*there.tasks, *run_spec.tasks}),
        tuned={**there.tuned, **run_spec.tuned},
    )


def _with(pairs: Pairs, settings: dict[str, Any]) -> Pairs:
    return overrides.overlay(pairs, overrides.pairs_from_mapping(settings, "study.tuned"))


def resolved(launch: Launch) -> Launch:
    """``launch`` with the computed points of its rule and of ``branch``."""
    if launch.grid.rule == "isoflop":
        launch = with_isoflop_points(launch, _pairs_of_point)
    return with_branch_points(launch, _pairs_of_point) if launch.branch else launch


def unmet(launch: Launch) -> dict[str, str]:
    """{point: reason} of the points of a rule that cannot be met."""
    return isoflop_points(launch, _pairs_of_point)[1] if launch.grid.rule == "isoflop" else {}


def _pairs_of_point(launch: Launch, values: dict[str, Any]) -> Pairs:
    """Settings of one point; later ones win: the study's, the grid's, the axes', the command line's."""
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
    yield [*pairs, ("task", finetuned()[0].name)]


def _identity_values(config: RunConfig, values: dict[str, Any]) -> dict[str, Any]:
    """The varied settings that the run depends on, with their values in its configuration."""
    identity = config.identity()
    return {key: identity[key] for key in values if key in identity}


def _label(config: RunConfig, name: str, values: dict[str, Any]) -> str:
    """The name of a point and its other varied settings. Without the seed, so that seeds can be averaged."""
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
    """The shortest text from which ``value`` can be read back."""
    if not isinstance(value, float):
        return str(value)
    text = f"{value:g}"
    return text if float(text) == value else repr(value)


def share_pretraining(run_specs: dict[str, RunSpec], earlier: Plan | None, study_dir: Path) -> dict[str, RunSpec]:
    """Let one of several runs with equal pre-training do it, and the others use its weights.

    That is a run of the ``earlier`` plan whose pre-training is finished; else that of ``run_specs`` which is furthest
    with it, running or in line; else the first. A run with no other task is left out. Branches leave the run that does
    the pre-training of their trunk. Raises ``UserError`` where no run is left.
    """
    done = [
        run for run in (earlier.runs if earlier else ()) if is_finished(run_dir(study_dir, run.run_id) / PRETRAIN.name)
    ]
    owners = {run.pretraining: run.run_id for run in reversed(done) if run.pretraining}
    digests = {run_id: pretraining_digest(run_spec.config) for run_id, run_spec in run_specs.items()}
    for run_id in _under_way(run_specs, study_dir):
        owners.setdefault(digests[run_id], run_id)
    shared = {}
    for run_id, run_spec in run_specs.items():
        owner = owners.setdefault(digests[run_id], run_id)
        if run_spec.config.init != "pretrain" or owner == run_id:
            shared[run_id] = run_spec
        elif run_spec.tasks[1:]:
            config = dataclasses.replace(run_spec.config, pretrain_dir=_pretraining_of(owner, study_dir))
            shared[run_id] = dataclasses.replace(run_spec, config=config, tasks=run_spec.tasks[1:], pretrained_by=owner)
    if not shared:
        names = ", ".join(dict.fromkeys(owners[digest] for digest in digests.values()))
        raise UserError(f"{study_dir}: these pre-trainings are finished, under other settings of later tasks: {names}")
    for run_id, run_spec in shared.items():
        if run_spec.branched_from is not None:
            shared[run_id] = _leaving(run_spec, owners[digests[run_spec.branched_from]], study_dir)
    return shared


def _under_way(run_specs: dict[str, RunSpec], study_dir: Path) -> list[str]:
    """The runs whose own pre-training has begun or is in line, the furthest first; not those put back to planned."""
    steps = {
        run_id: status.step
        for run_id, run_spec in run_specs.items()
        if run_spec.config.init == "pretrain"
        and (status := read_status(run_dir(study_dir, run_id) / PRETRAIN.name)) is not None
        and status.state != "planned"
    }
    return sorted(steps, key=lambda run_id: -steps[run_id])


def _leaving(run_spec: RunSpec, trunk: str, study_dir: Path) -> RunSpec:
    """The branch ``run_spec``, with the run ``trunk`` as that which it branches off."""
    saving = dataclasses.replace(run_spec.config.checkpoint, branch_from=_pretraining_of(trunk, study_dir))
    config = dataclasses.replace(run_spec.config, checkpoint=saving)
    return dataclasses.replace(run_spec, config=config, branched_from=trunk)


def _pretraining_of(run_id: str, study_dir: Path) -> str:
    """The folder of a run's own pre-training, as other runs name it."""
    return str((run_dir(study_dir, run_id) / PRETRAIN.name).absolute())


def pretraining_digest(config: RunConfig) -> str:
    """Equal for runs with equal pre-training."""
    return config_digest(config.pretrain_identity())


def price(
    launch: Launch,
    run_specs: dict[str, RunSpec],
    speed: Speed,
    placed: Placements,
    measured: Measurements | None = None,
) -> Plan:
    """The plan of the expanded ``run_specs``. Raises ``DataError`` when a data set cannot be read."""
    pricing = _Pricing(launch.cluster, placed, speed, measured or Measurements({}))
    launch = resolved(launch)
    planned = tuple(
        PlannedRun(
            run_id=run_id,
            label=run_spec.label,
            init=run_spec.config.init,
            values=run_spec.values,
            tasks={task: pricing.of(run_spec, task) for task in run_spec.tasks},
            pretraining=pretraining_digest(run_spec.config) if run_spec.config.init == "pretrain" else None,
            pretrained_by=run_spec.pretrained_by,
            branched_from=run_spec.branched_from,
            tuned=run_spec.tuned,
        )
        for run_id, run_spec in run_specs.items()
    )
    facts = stated_data(run_specs.values())
    data = {"data": f"not there, by what is stated of it: {'; '.join(facts)}"} if facts else {}
    basis = {
        **BASIS,
        **data,
        "memory": placed.basis(next(iter(run_specs.values())).config),
        "time": pricing.times.basis,
    }
    # Branches differ in warm-up, as a fraction, only to be equal in its steps: it is the length that varies.
    axes = tuple(key for key in varied_settings(launch.grid) if not (launch.branch and key in FOLLOW_LENGTHS))
    return Plan(launch.study.name, launch.grid_name, axes, planned, basis, about=launch.study.about)


class _Pricing:
    """Computes the cost of tasks, once for what differs only in the seed."""

    def __init__(self, cluster: Cluster, placed: Placements, speed: Speed, measured: Measurements) -> None:
        self.times, self._equal_times = (Times(speed, world_size(cluster), measured) for _ in range(2))
        self._cluster, self._placed, self._equal = cluster, placed, None
        if isinstance(cluster, SlurmSettings) and cluster.devices != "equal":
            self._equal = Placements(dataclasses.replace(cluster, devices="equal"))
        self._known: dict[tuple[str, str, int], PlannedTask] = {}

    def of(self, run_spec: RunSpec, task: str) -> PlannedTask:
        start = first_step(run_spec, task)
        key = seedless(run_spec.config), task, start
        if key not in self._known:
            self._known[key] = self._price(run_spec.config, task, start)
        return self._known[key]

    def _price(self, config: RunConfig, task: str, start: int) -> PlannedTask:
        placement = self._placed.of(config, task)
        cost = task_cost(config, task, activation_checkpointing=placement.activation_checkpointing)
        seconds, calibrated = self.times.of(config, task, cost, placement, start)
        return PlannedTask(
            params_total=cost.params_total,
            params_backbone=cost.params_backbone,
            images=cost.images_seen,
            flops=cost.flops_train,
            memory_bytes=placement.memory.total,
            seconds=seconds,
            calibrated=calibrated,
            resources=of_task(self._cluster, placement.world_size, seconds),
            flops_inherited=cost.flops_train * start // cost.steps,
            steps=cost.steps,
            dataset=config.task_config(task).dataset,
            unique_images=cost.unique_images,
            layout=Layout(
                devices=placement.world_size,
                zero_stage=placement.zero_stage,
                micro_batch_size=placement.micro_batch_size,
                accumulation=placement.accumulation,
                activation_checkpointing=placement.activation_checkpointing,
            ),
            storage_bytes=task_storage(config, task).total,
            equal_device_seconds=self._equal_device_seconds(config, task, start),
        )

    def _equal_device_seconds(self, config: RunConfig, task: str, start: int) -> float | None:
        """Time of all devices of ``task`` if every task had as many; None where every task has."""
        if self._equal is None:
            return None
        placement = self._equal.of(config, task)
        cost = task_cost(config, task, activation_checkpointing=placement.activation_checkpointing)
        seconds, _ = self._equal_times.of(config, task, cost, placement, start)
        return None if seconds is None else seconds * placement.world_size


class Times:
    """Estimates the time of tasks: from measurements of similar ones, else from FLOPs and the ``speed`` of ``devices``.

    Where any task of the launch was measured, the times of the others are extended from that, too. Otherwise a larger
    task that is priced by its FLOPs could seem faster than a smaller one that was measured.
    """

    def __init__(self, speed: Speed, devices: int, measured: Measurements) -> None:
        self._speed, self._devices, self._measured = speed, devices, measured
        self._numbers: Counter[str] = Counter()

    def of(
        self, config: RunConfig, task: str, cost: TaskCost, placement: Placement, start: int
    ) -> tuple[float | None, bool]:
        """Seconds of ``task`` from step ``start`` on, None where unknown; and whether similar tasks were measured."""
        family, parts = family_of(config, task, placement), counts(config, task, cost.steps, start)
        work, devices = work_of(cost), placement.world_size
        measured = self._measured.seconds(family, work, parts)
        if measured is not None:
            self._numbers["measured"] += 1
            return measured, True
        flops = (cost.flops_train - cost.flops_train * start // cost.steps) * self._devices // devices
        least = self._speed.seconds_of_work(flops) or 0.0
        extended = self._measured.extended(family, work, devices, parts, least)
        self._numbers["guessed" if extended is None else "extended"] += 1
        if extended is None:
            return self._speed.seconds_of_task(config, task, cost, placement, self._devices, start), False
        return extended, False

    @property
    def basis(self) -> str:
        """What the estimates are based on."""
        measured, extended = self._numbers["measured"], self._numbers["extended"]
        if not measured + extended:
            return self._speed.basis
        basis = f"{measured} tasks from short runs of such tasks on this device, {self._measured.since()}"
        return (
            f"{basis}; {extended} of other sizes or kinds from those; calibrate=true measures them"
            if extended
            else basis
        )
