"""What one task asks of the machines it runs on: a plan states it for every task, executors ask for it."""

from __future__ import annotations

from dataclasses import dataclass

from sweeps.plan.machine import local_slots
from sweeps.settings.schema import Cluster, SlurmSettings

SHORTEST_LIMIT_MINUTES = 15


@dataclass(frozen=True)
class Resources:
    """The shape of one job; jobs of equal shape can share an array.

    ``gpus_per_node`` 0: processes on CPU cores. ``mem_gb`` is memory per node in GB and ``timeout_min`` the time
    limit in minutes; None leaves either to the cluster.
    """

    nodes: int = 1
    tasks_per_node: int = 1
    gpus_per_node: int = 0
    cpus_per_task: int = 1
    mem_gb: int | None = None
    timeout_min: int | None = None


def of_task(cluster: Cluster, processes: int, seconds: float | None) -> Resources:
    """What a task of so many ``processes``, estimated to take ``seconds``, asks of ``cluster``; on this machine a slot,
    whose threads its queue divides."""
    if isinstance(cluster, SlurmSettings):
        return Resources(
            nodes=processes // cluster.tasks_per_node,
            tasks_per_node=cluster.tasks_per_node,
            gpus_per_node=cluster.gpus_per_node,
            cpus_per_task=cluster.cpus_per_task,
            mem_gb=cluster.mem_gb,
            timeout_min=_time_limit(cluster, seconds),
        )
    slots = local_slots(cluster)
    return Resources(gpus_per_node=int(bool(slots.gpus)), cpus_per_task=slots.threads)


def _time_limit(cluster: SlurmSettings, seconds: float | None) -> int:
    """Minutes: short jobs start sooner. Few different limits, as jobs of equal shape share an array."""
    if cluster.time_margin is None or seconds is None:
        return cluster.timeout_min
    limit = SHORTEST_LIMIT_MINUTES
    while limit * 60 < seconds * cluster.time_margin:
        limit *= 2
    return min(limit, cluster.timeout_min)
