"""What one task asks of the machines it runs on: a plan states it for every task, executors ask for it."""

from __future__ import annotations

from dataclasses import dataclass

from sweeps.machine import local_slots
from sweeps.settings import Cluster, SlurmSettings


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


def of_cluster(cluster: Cluster) -> Resources:
    """What the settings of ``cluster`` give every task; on this machine a slot, whose threads its queue divides."""
    if isinstance(cluster, SlurmSettings):
        return Resources(
            nodes=cluster.nodes,
            tasks_per_node=cluster.tasks_per_node,
            gpus_per_node=cluster.gpus_per_node,
            cpus_per_task=cluster.cpus_per_task,
            mem_gb=cluster.mem_gb,
            timeout_min=cluster.timeout_min,
        )
    slots = local_slots(cluster)
    return Resources(gpus_per_node=int(bool(slots.gpus)), cpus_per_task=slots.threads)
