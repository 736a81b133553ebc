"""How the tasks of a plan lie on devices, worked out once for what differs only in its seed."""

from __future__ import annotations

import dataclasses

from nepa_scale.config import RunConfig
from nepa_scale.placing.placement import Placement, gib, place
from sweeps.machine import device_memory, world_size
from sweeps.settings import Cluster


class Placements:
    """The placement of every task on a process of ``cluster``; equal questions are answered from memory."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._devices = cluster, world_size(cluster)
        self._known: dict[tuple[str, str], Placement] = {}

    def of(self, config: RunConfig, task: str) -> Placement:
        """The placement of ``task``. Raises as ``nepa_scale.placing.placement.place``."""
        key = seedless(config), task
        if key not in self._known:
            self._known[key] = place(config, task, self._devices, device_memory(self._cluster, config))
        return self._known[key]

    def basis(self, config: RunConfig) -> str:
        """What the estimates of memory rest on."""
        device = device_memory(self._cluster, config)
        room = "a device's is not known" if device.size is None else f"a device has {gib(device.size)}"
        return f"what DeepSpeed and autograd hold, by formula (docs/placement.md); {room} ({device.source})"


def seedless(config: RunConfig) -> str:
    """A text that is the same for configurations that differ only in their seed."""
    return repr(dataclasses.replace(config, seed=0))
