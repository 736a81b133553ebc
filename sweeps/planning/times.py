"""How long tasks will take: from measurements of tasks like them, else from FLOPs and a speed."""

from __future__ import annotations

from nepa_scale.config import RunConfig
from nepa_scale.costs import TaskCost
from nepa_scale.placing.placed import Placement
from sweeps.calibrating.measurements import Measurements, family_of, work_of
from sweeps.calibrating.timing import counts
from sweeps.machine import Speed


class Times:
    """Estimates of a launch, ``speed`` being that of ``devices``. It remembers how many rest on measurements."""

    def __init__(self, speed: Speed, devices: int, measured: Measurements | None = None) -> None:
        self._speed, self._devices, self._measured = speed, devices, measured
        self._numbers = {True: 0, False: 0}

    def of(
        self, config: RunConfig, task: str, cost: TaskCost, placement: Placement, start: int
    ) -> tuple[float | None, bool]:
        """Seconds of ``task`` from step ``start`` on, None where they are not known; and whether they rest on
        measurements."""
        found = None
        if self._measured is not None:
            family, parts = family_of(config, task, placement), counts(config, task, cost.steps, start)
            found = self._measured.seconds(family, work_of(cost), parts)
        self._numbers[found is not None] += 1
        if found is not None:
            return found, True
        flops = cost.flops_train - cost.flops_train * start // cost.steps
        return self._speed.seconds(flops * self._devices // placement.world_size), False

    @property
    def basis(self) -> str:
        """What they rest on."""
        measured, others = self._numbers[True], self._numbers[False]
        if self._measured is None or not measured:
            return self._speed.basis
        said = f"{measured} tasks from short runs of such tasks on this device, {self._measured.since()}"
        return said if not others else f"{said}; {others} from {self._speed.basis}"
