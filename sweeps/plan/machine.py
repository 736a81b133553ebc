"""The devices of a cluster: how many, how fast, and how the tasks of a plan are placed on them. Free of torch."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from nepa_scale.config.schema import RunConfig
from nepa_scale.config.validate import divisors
from nepa_scale.distributed.processes import cores
from nepa_scale.placement import performance
from nepa_scale.placement.costs import TaskCost, orthogonalising_flops, task_cost
from nepa_scale.placement.devices import GIB, DeviceMemory, Placement, gib, host_share, visible_gpus
from nepa_scale.placement.gpus import known_devices, stated_flops, stated_memory
from nepa_scale.placement.performance import EFFICIENCY, Device, device_called
from nepa_scale.placement.planner import efficiency, place
from nepa_scale.utils.errors import ConfigError, UserError
from sweeps.settings.schema import Cluster, LocalSettings, SlurmSettings

MATRIX_SIDE = 768
MEASURE_SECONDS = 0.15
SHORTEST_LIMIT_MINUTES = 15


@dataclass(frozen=True)
class Resources:
    """The shape of one job; jobs of equal shape can share an array.

    ``gpus_per_node`` 0: processes on CPU cores. ``mem_gb`` is memory per node in GB and ``timeout_min`` the time
    limit in minutes; None leaves either to the cluster. ``sharing``: how many such tasks share a node and one job;
    1 where they do not.
    """

    nodes: int = 1
    tasks_per_node: int = 1
    gpus_per_node: int = 0
    cpus_per_task: int = 1
    mem_gb: int | None = None
    timeout_min: int | None = None
    sharing: int = 1


@dataclass(frozen=True)
class Slots:
    """How many tasks run at once on this machine, and what one may use.

    A task has ``processes`` with ``threads`` together, and a GPU for each process. ``gpus`` are the names of all GPUs,
    empty where there are none.
    """

    count: int
    threads: int
    gpus: tuple[str, ...]
    processes: int = 1

    @property
    def forks(self) -> bool:
        """Whether tasks are forked from a process that has their imports: not on GPUs, nor with several ranks."""
        return not self.gpus and self.processes == 1


@dataclass(frozen=True)
class Speed:
    """How fast one task trains: FLOP/s over all its processes (None = not known), and what that rests on."""

    flops_per_second: float | None
    startup_seconds: float
    basis: str
    device: Device | None = None
    """the GPU whose steps the performance model prices, task by task"""

    def seconds(self, flops: int) -> float | None:
        """Time of a task of ``flops``, start-up included; None where the speed is not known."""
        if self.flops_per_second is None:
            return None
        return self.startup_seconds + flops / self.flops_per_second

    def seconds_of_work(self, flops: float) -> float | None:
        """Time of ``flops`` alone; None where the speed is not known."""
        return None if self.flops_per_second is None else flops / self.flops_per_second

    def seconds_of_task(
        self, config: RunConfig, task: str, cost: TaskCost, placement: Placement, processes: int, start: int = 0
    ) -> float | None:
        """Time of ``task`` as it is placed, from step ``start`` on; this is the speed of so many ``processes``."""
        if self.device is not None:
            steps = performance.task_step(config, task, placement, self.device).total * (cost.steps - start)
            return self.startup_seconds + steps
        flops = (cost.flops_train - cost.flops_train * start // cost.steps) * processes // placement.world_size
        return self.seconds(flops + orthogonalising_flops(config, task) * (cost.steps - start) * processes)


def local_slots(settings: LocalSettings) -> Slots:
    """Resolve the slots of this machine: one per GPU, else as many as the threads allow.

    Raises ``ConfigError`` where there are GPUs, but fewer than a task has processes.
    """
    gpus, processes = visible_gpus(), settings.processes_per_task
    if gpus and processes > len(gpus):
        raise ConfigError([f"cluster.processes_per_task={processes}: give at most the number of GPUs, {len(gpus)}"])
    count = settings.slots or len(gpus) // processes or max(1, cores() // (settings.threads_per_slot or processes))
    return Slots(count, settings.threads_per_slot or max(1, cores() // count), gpus, processes)


def world_size(settings: Cluster) -> int:
    """Processes that work together on one task."""
    if isinstance(settings, SlurmSettings):
        return settings.nodes * settings.tasks_per_node
    return settings.processes_per_task


def of_task(cluster: Cluster, processes: int, seconds: float | None) -> Resources:
    """The resources of a task of ``processes`` that takes about ``seconds``; on this machine those of a slot."""
    if isinstance(cluster, SlurmSettings):
        of_node = min(processes, cluster.tasks_per_node)
        parts = cluster.tasks_per_node // of_node
        return Resources(
            nodes=max(1, processes // cluster.tasks_per_node),
            tasks_per_node=of_node,
            gpus_per_node=-(-cluster.gpus_per_node // parts),
            cpus_per_task=cluster.cpus_per_task,
            mem_gb=None if cluster.mem_gb is None else -(-cluster.mem_gb // parts),
            timeout_min=_time_limit(cluster, seconds),
            sharing=parts if cluster.pack else 1,
        )
    slots = local_slots(cluster)
    return Resources(gpus_per_node=int(bool(slots.gpus)), cpus_per_task=slots.threads)


def _time_limit(cluster: SlurmSettings, seconds: float | None) -> int:
    """The time limit in minutes: short, as short jobs start sooner, but of few values, as equal jobs share an array."""
    if cluster.time_margin is None or seconds is None:
        return cluster.timeout_min
    limit = SHORTEST_LIMIT_MINUTES
    while limit * 60 < seconds * cluster.time_margin:
        limit *= 2
    return min(limit, cluster.timeout_min)


def device_memory(settings: Cluster, config: RunConfig) -> DeviceMemory:
    """What one process of a task may use: stated, a share of this machine's, or of what Slurm is asked for."""
    if config.engine.device_memory_gib is not None:
        on_gpu = bool(settings.gpus_per_node) if isinstance(settings, SlurmSettings) else bool(visible_gpus())
        size = int(config.engine.device_memory_gib * GIB)
        return DeviceMemory(size, "engine.device_memory_gib", on_gpu, settings.device if on_gpu else None)
    if isinstance(settings, LocalSettings):
        slots = local_slots(settings)
        return _gpu_memory(settings) if slots.gpus else host_share(slots.count * slots.processes)
    if settings.gpus_per_node:
        return _gpu_memory(settings)
    if settings.mem_gb is None:
        return DeviceMemory(None, "state engine.device_memory_gib", on_gpu=False)
    return DeviceMemory(settings.mem_gb * 10**9 // settings.tasks_per_node, "cluster.mem_gb", on_gpu=False)


def _gpu_memory(settings: Cluster) -> DeviceMemory:
    """The memory of one GPU of a kind that is named."""
    size = None if settings.device is None else stated_memory(settings.device)
    if size is None:
        return DeviceMemory(None, "state engine.device_memory_gib of one GPU", on_gpu=True)
    source = f"the most a {settings.device} has; or state engine.device_memory_gib"
    return DeviceMemory(size, source, on_gpu=True, gpu=settings.device)


class Placements:
    """Plans the placement of tasks on the devices of ``cluster``, once for what differs only in the seed."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._sizes = cluster, tuple(world_sizes(cluster))
        self._known: dict[tuple[str, str], Placement] = {}

    def of(self, config: RunConfig, task: str) -> Placement:
        """The placement of ``task`` on the fewest devices that it may have and that can hold it, or under
        ``devices=auto`` on as many as suit it; if none can hold it, on the fewest.

        Raises as ``nepa_scale.placement.planner.place``.
        """
        key = seedless(config), task
        if key not in self._known:
            device, batch_size = device_memory(self._cluster, config), config.task_config(task).batch_size
            usable = [size for size in self._sizes if batch_size % size == 0] or list(self._sizes[:1])
            tried = (place(config, task, size, device) for size in usable)
            fitting = (placement for placement in tried if placement.problem is None)
            self._known[key] = self._suited(config, task, fitting, device) or place(config, task, usable[0], device)
        return self._known[key]

    def _suited(
        self, config: RunConfig, task: str, fitting: Iterator[Placement], device: DeviceMemory
    ) -> Placement | None:
        """The first of the ``fitting`` placements, fewest devices first, unless more devices suit the task better."""
        fewest = next(fitting, None)
        if fewest is None or not isinstance(self._cluster, SlurmSettings) or self._cluster.devices != "auto":
            return fewest
        placements = [fewest, *fitting]
        if self._cluster.wall_hours is not None:
            limit = self._cluster.wall_hours * 3600
            soon = (each for each in placements if (self._seconds(config, task, each) or math.inf) <= limit)
            return next(soon, placements[-1])
        least = self._cluster.efficiency
        return [each for each in placements if efficiency(config, task, fewest, each, device) >= least][-1]

    def _seconds(self, config: RunConfig, task: str, placement: Placement) -> float | None:
        cost = task_cost(config, task, activation_checkpointing=placement.activation_checkpointing)
        speed = task_speed(self._cluster, config.engine.precision)
        return speed.seconds_of_task(config, task, cost, placement, world_size(self._cluster))

    def unused(self, config: RunConfig, task: str) -> list[int]:
        """Numbers of processes that ``task`` could have if its batch divided over them."""
        return [size for size in self._sizes if config.task_config(task).batch_size % size]

    def basis(self, config: RunConfig) -> str:
        """What the estimates of memory are based on."""
        device = device_memory(self._cluster, config)
        room = "a device's is not known" if device.size is None else f"a device has {gib(device.size)}"
        return f"what DeepSpeed and autograd hold, by formula (docs/placement.md); {room} ({device.source})"


def world_sizes(cluster: Cluster) -> Iterator[int]:
    """The numbers of processes that a task may have, fewest first: parts of a node, then nodes."""
    size = world_size(cluster)
    if isinstance(cluster, LocalSettings):
        yield size
        return
    if cluster.devices != "equal":
        yield from divisors(cluster.tasks_per_node)[:-1]
        size = cluster.tasks_per_node
    while size <= max(cluster.nodes, cluster.max_nodes or 0) * cluster.tasks_per_node:
        yield size
        size *= 2


def seedless(config: RunConfig) -> str:
    """A text that is the same for configurations that differ only in their seed."""
    return repr(dataclasses.replace(config, seed=0))


def task_speed(settings: Cluster, precision: str = "fp32") -> Speed:
    """The speed for estimates: as given, or measured now where tasks run on this machine's cores.

    Raises ``ConfigError`` where ``cluster.device`` and ``cluster.mfu`` do not say how fast it is.
    """
    if settings.device is not None or settings.mfu is not None:
        return _speed_at_mfu(settings, precision)
    slots = local_slots(settings) if isinstance(settings, LocalSettings) else None
    if settings.flops_per_second is not None:
        peak, source = settings.flops_per_second, "cluster.flops_per_second"
    elif slots is not None and not slots.gpus:
        peak = measured_flops_per_second(max(1, slots.threads // slots.processes))
        threads = f"{slots.threads} thread{'s' if slots.threads > 1 else ''}"
        source = f"measured now: float32 matrix product on {threads}; calibrate=true measures tasks"
    else:
        return Speed(None, settings.startup_seconds, "times unknown: give cluster.flops_per_second of one GPU")
    devices = world_size(settings)
    over = f" x {devices} processes" if devices > 1 else ""
    basis = (
        f"{peak:.3g} FLOP/s ({source}){over} x utilisation {settings.utilisation:g},"
        f" {settings.startup_seconds:g} s to start a task"
    )
    return Speed(peak * devices * settings.utilisation, settings.startup_seconds, basis)


def _speed_at_mfu(settings: Cluster, precision: str) -> Speed:
    """The stated peak of a GPU times ``cluster.mfu``, or without that the performance model's speed."""
    if settings.device is None:
        raise ConfigError([f"cluster.mfu={settings.mfu:g}: of which GPU? give cluster.device=NAME, too"])
    peak = stated_flops(settings.device, precision, tf32=True)  # as training allows on GPUs
    if peak is None:
        known = ", ".join(known_devices())
        raise ConfigError([f"cluster.device={settings.device}: no stated peak in {precision}; known are {known}"])
    devices = world_size(settings)
    if settings.mfu is None:
        return _modelled(settings, peak * devices)
    basis = (
        f"{peak:.3g} FLOP/s (what the maker states for {settings.device} in {precision}) x {devices}"
        f" x MFU {settings.mfu:g}, {settings.startup_seconds:g} s to start a task"
    )
    return Speed(peak * devices * settings.mfu, settings.startup_seconds, basis)


def _modelled(settings: Cluster, peak: float) -> Speed:
    """The speed by the performance model, on nodes as the cluster has them."""
    try:
        device = device_called(settings.device or "")
    except UserError as error:
        raise ConfigError([f"cluster.{error}; or give cluster.mfu=FRACTION"]) from error
    if isinstance(settings, SlurmSettings):
        device = replace(device, links=device.links._replace(per_node=settings.tasks_per_node))
    basis = (
        f"performance model of {settings.device} (docs/scaling.md: 8 of 9 published figures within 25 %),"
        f" {settings.startup_seconds:g} s to start a task; evaluation and waiting for images not counted"
    )
    return Speed(peak * EFFICIENCY, settings.startup_seconds, basis, device)


def measured_flops_per_second(threads: int) -> float:
    """FLOP/s of a float32 matrix product on ``threads`` threads of this machine; the best of several."""
    import numpy as np
    from threadpoolctl import threadpool_limits

    matrix = np.ones((MATRIX_SIDE, MATRIX_SIDE), dtype=np.float32)
    best, started = float("inf"), time.perf_counter()
    with threadpool_limits(threads):
        while best == float("inf") or time.perf_counter() - started < MEASURE_SECONDS:
            before = time.perf_counter()
            matrix @ matrix
            best = min(best, time.perf_counter() - before)
    return 2 * MATRIX_SIDE**3 / best
