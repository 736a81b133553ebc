"""How long tasks will take: from measurements of tasks like them, else from FLOPs and a speed."""

from __future__ import annotations

from collections import Counter

from nepa_scale.config.schema import RunConfig
from nepa_scale.placement import performance
from nepa_scale.placement.costs import TaskCost
from nepa_scale.placement.devices import Placement
from sweeps.plan.machine import Speed
from sweeps.plan.measured_times import Measurements, family_of, work_of
from sweeps.plan.timing import counts


class Times:
    """Estimates of a launch, ``speed`` being that of ``devices``. It remembers how many rest on what.

    Where any task of the launch was measured, the others are compared with those: a guess beside a measurement would
    make a larger task seem the faster one.
    """

    def __init__(self, speed: Speed, devices: int, measured: Measurements) -> None:
        self._speed, self._devices, self._measured = speed, devices, measured
        self._numbers: Counter[str] = Counter()

    def of(
        self, config: RunConfig, task: str, cost: TaskCost, placement: Placement, start: int
    ) -> tuple[float | None, bool]:
        """Seconds of ``task`` from step ``start`` on, None where they are not known; and whether tasks like it were
        measured."""
        family, parts = family_of(config, task, placement), counts(config, task, cost.steps, start)
        work, devices = work_of(cost), placement.world_size
        found = self._measured.seconds(family, work, parts)
        if found is not None:
            self._numbers["measured"] += 1
            return found, True
        flops = (cost.flops_train - cost.flops_train * start // cost.steps) * self._devices // devices
        least = self._speed.seconds_of_work(flops) or 0.0
        extended = self._measured.extended(family, work, devices, parts, least)
        self._numbers["guessed" if extended is None else "extended"] += 1
        if extended is None and self._speed.device is not None:
            steps = performance.task_step(config, task, placement, self._speed.device).total * (cost.steps - start)
            return self._speed.startup_seconds + steps, False
        return (self._speed.seconds(flops) if extended is None else extended), False

    @property
    def basis(self) -> str:
        """What they rest on."""
        measured, extended = self._numbers["measured"], self._numbers["extended"]
        if not measured + extended:
            return self._speed.basis
        said = f"{measured} tasks from short runs of such tasks on this device, {self._measured.since()}"
        return (
            f"{said}; {extended} of other sizes or kinds from those; calibrate=true measures them" if extended else said
        )
