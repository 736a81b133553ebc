"""How the tasks of a plan lie on devices, worked out once for what differs only in its seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from nepa_scale.config.schema import RunConfig
from nepa_scale.placement.devices import Placement, gib
from nepa_scale.placement.planner import place
from sweeps.plan.machine import device_memory, world_size
from sweeps.settings.schema import Cluster, SlurmSettings


class Placements:
    """The placement of every task on a process of ``cluster``; equal questions are answered from memory."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._sizes = cluster, tuple(_world_sizes(cluster))
        self._known: dict[tuple[str, str], Placement] = {}

    def of(self, config: RunConfig, task: str) -> Placement:
        """The placement of ``task`` on the fewest nodes that can hold it, or else on the least that a task gets.

        Raises as ``nepa_scale.placement.planner.place``.
        """
        key = seedless(config), task
        if key not in self._known:
            device, batch_size = device_memory(self._cluster, config), config.task_config(task).batch_size
            usable = [size for size in self._sizes if batch_size % size == 0] or list(self._sizes[:1])
            tried = (place(config, task, size, device) for size in usable)
            fitting = next((placement for placement in tried if placement.problem is None), None)
            self._known[key] = fitting or place(config, task, usable[0], device)
        return self._known[key]

    def unused(self, config: RunConfig, task: str) -> list[int]:
        """Numbers of processes that ``task`` may have and over which its batch does not divide."""
        return [size for size in self._sizes if config.task_config(task).batch_size % size]

    def basis(self, config: RunConfig) -> str:
        """What the estimates of memory rest on."""
        device = device_memory(self._cluster, config)
        room = "a device's is not known" if device.size is None else f"a device has {gib(device.size)}"
        return f"what DeepSpeed and autograd hold, by formula (docs/placement.md); {room} ({device.source})"


def _world_sizes(cluster: Cluster) -> Iterator[int]:
    """How many processes a task may have, fewest first."""
    size = world_size(cluster)
    yield size
    if isinstance(cluster, SlurmSettings) and cluster.max_nodes is not None:
        while size * 2 <= cluster.max_nodes * cluster.tasks_per_node:
            size *= 2
            yield size


def seedless(config: RunConfig) -> str:
    """A text that is the same for configurations that differ only in their seed."""
    return repr(dataclasses.replace(config, seed=0))
