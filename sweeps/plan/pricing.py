"""What the runs of a grid will cost, task by task: FLOPs, memory, time, storage."""

from __future__ import annotations

import dataclasses
from collections import Counter

from nepa_scale.config.schema import RunConfig
from nepa_scale.placement.costs import FLOPS_CONVENTION, TaskCost, task_cost, task_storage
from nepa_scale.placement.devices import Placement
from sweeps.plan.feasibility import stated_data
from sweeps.plan.grids import RunSpec, varied_settings
from sweeps.plan.machine import Placements, Speed, of_task, seedless, world_size
from sweeps.plan.measured_times import Measurements, family_of, work_of
from sweeps.plan.plan import Layout, Plan, PlannedRun, PlannedTask
from sweeps.plan.rules import first_step
from sweeps.plan.run_specs import pretraining_digest, resolved
from sweeps.plan.timing import counts
from sweeps.settings.schema import Cluster, Launch, SlurmSettings

BASIS = {
    "FLOPs": FLOPS_CONVENTION,
    "storage": "checkpoints that stay (checkpoint.keep, keep_steps) and exported weights, by parameter",
}


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
    return Plan(
        launch.study.name, launch.grid_name, varied_settings(launch.grid), planned, basis, about=launch.study.about
    )


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
