"""What the runs of a grid will cost, task by task."""

from __future__ import annotations

from nepa_scale.costs import FLOPS_CONVENTION, task_cost
from nepa_scale.placing.placement import Placement
from nepa_scale.storage import task_storage
from sweeps.machine import Speed
from sweeps.plan import Layout, Plan, PlannedRun, PlannedTask
from sweeps.planning import branches
from sweeps.planning.grids import varied
from sweeps.planning.placements import Placements
from sweeps.planning.point import Point
from sweeps.planning.points import resolved
from sweeps.planning.sharing import pretraining_digest
from sweeps.resources import Resources, of_cluster
from sweeps.settings import Launch

BASIS = {
    "FLOPs": FLOPS_CONVENTION,
    "storage": "checkpoints that stay (checkpoint.keep, keep_steps) and exported weights, by parameter",
}


def price(launch: Launch, points: dict[str, Point], speed: Speed, placed: Placements) -> Plan:
    """The plan of the expanded ``points``. Raises ``DataError`` when a data set cannot be read."""
    resources = of_cluster(launch.cluster)
    launch = resolved(launch)
    planned = tuple(
        PlannedRun(
            run_id=run_id,
            label=point.label,
            init=point.config.init,
            values=point.values,
            tasks={
                task: _price_task(point, task, resources, placed.of(point.config, task), speed) for task in point.tasks
            },
            pretraining=pretraining_digest(point.config) if point.config.init == "pretrain" else None,
            pretrained_by=point.pretrained_by,
            branched_from=point.branched_from,
        )
        for run_id, point in points.items()
    )
    first = next(iter(points.values())).config
    basis = {**BASIS, "memory": placed.basis(first), "time": speed.basis}
    return Plan(launch.study.name, launch.grid_name, varied(launch.grid), planned, basis)


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
        steps=cost.steps,
        dataset=point.config.task_config(task).dataset,
        unique_images=cost.unique_images,
        layout=Layout(
            devices=placement.world_size,
            zero_stage=placement.zero_stage,
            micro_batch_size=placement.micro_batch_size,
            accumulation=placement.accumulation,
            activation_checkpointing=placement.activation_checkpointing,
        ),
        storage_bytes=task_storage(point.config, task).total,
    )
