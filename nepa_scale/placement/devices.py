"""The devices of a run: how much memory each has, stated or found here, and how a task is laid on them.

Free of torch unless there is a GPU.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from nepa_scale.config.schema import RunConfig
from nepa_scale.distributed.world import World, ranks_here
from nepa_scale.placement.memory import MemoryEstimate
from nepa_scale.placement.visible_gpus import has_gpu

GIB = 2**30
CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class DeviceMemory:
    """What one device can hold, in bytes (None = not known), and where the figure comes from.

    ``gpu``: the name of a GPU, where it is known.
    """

    size: int | None
    source: str
    on_gpu: bool
    gpu: str | None = None


def planned(config: RunConfig, world: World) -> DeviceMemory:
    """What is known before torch is loaded: a stated size, or this machine's memory shared by its ranks."""
    on_gpu = has_gpu()
    if config.engine.device_memory_gib is not None:
        return _stated(config, on_gpu=on_gpu)
    if on_gpu:
        return DeviceMemory(None, "the GPU is asked when training starts; or state engine.device_memory_gib", on_gpu)
    return host_share(ranks_here(world))


def measured(config: RunConfig, world: World) -> DeviceMemory:
    """What this rank may use of its device, with torch loaded; ranks may find different sizes."""
    import torch

    on_gpu = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if on_gpu else None
    if config.engine.device_memory_gib is not None:
        return replace(_stated(config, on_gpu=on_gpu), gpu=name)
    if on_gpu:
        free, _ = torch.cuda.mem_get_info()
        return DeviceMemory(free, f"free on {name}", on_gpu, name)
    share = host_share(ranks_here(world))
    return share if share.size is None else replace(share, size=share.size + _resident())


def host_share(processes: int) -> DeviceMemory:
    """This machine's available memory divided by ``processes`` that want it."""
    available = available_host_memory()
    if available is None:
        return DeviceMemory(None, "this system does not say; state engine.device_memory_gib", on_gpu=False)
    sharing = f", shared by {processes} processes" if processes > 1 else ""
    return DeviceMemory(available // processes, f"available on this machine{sharing}", on_gpu=False)


def available_host_memory() -> int | None:
    """Bytes that new processes may use: the system's, or less where a control group (Slurm, a container) says so."""
    try:
        fields = dict(line.split(":", 1) for line in MEMINFO.read_text(encoding="utf-8").splitlines())
        available = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    return min([available, *_left_in_control_groups()])


def _stated(config: RunConfig, *, on_gpu: bool) -> DeviceMemory:
    size = config.engine.device_memory_gib
    return DeviceMemory(int((size or 0) * GIB), "engine.device_memory_gib", on_gpu)


def _resident() -> int:
    """Bytes this process has in memory already; its own part of what it may use."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _left_in_control_groups() -> list[int]:
    """What the limits of this process's group and of those above it leave (cgroup v2)."""
    try:
        group = Path("/proc/self/cgroup").read_text(encoding="utf-8").rpartition("::")[2].strip().lstrip("/")
    except OSError:
        return []
    left = []
    for folder in [CGROUP / group, *(CGROUP / group).parents]:
        try:
            limit, used = (
                (folder / name).read_text(encoding="utf-8").strip() for name in ("memory.max", "memory.current")
            )
            left += [max(0, int(limit) - int(used))] if limit != "max" else []
        except (OSError, ValueError):
            continue
    return left


#: Of a device's memory the plan fills this much: the rest is for what no model foresees, such as the pieces between
#: blocks that an allocator cannot use.
FILL = 0.9


@dataclass(frozen=True)
class Placement:
    """How one task is laid on ``world_size`` devices.

    ``ds_config`` is a name in ds_configs/ or a path. ``micro_batch_size`` images pass through a device at a time,
    ``accumulation`` times for each step. ``memory`` is the estimate for one device, ``available`` what one has
    (None = not known). ``reasons``: why it is so, a line each.
    """

    world_size: int
    ds_config: str
    zero_stage: int
    micro_batch_size: int
    accumulation: int
    activation_checkpointing: bool
    num_params: int
    largest_tensor: int
    largest_block: int
    memory: MemoryEstimate
    available: int | None
    reasons: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the estimate leaves the spare part of the device's memory free."""
        return self.available is None or self.memory.total <= FILL * self.available

    @property
    def problem(self) -> str | None:
        """Why this should not be started, if the device cannot hold it at all."""
        if self.available is None or self.memory.total <= self.available:
            return None
        return (
            f"needs about {gib(self.memory.total)} per device of the {gib(self.available)} there are"
            f" (ZeRO stage {self.zero_stage}, micro-batch {self.micro_batch_size}); more devices, a smaller"
            " model.size or image_size would fit; force=true starts it all the same"
        )


def gib(size: int) -> str:
    """Bytes in GiB."""
    return f"{size / 2**30:.2f} GiB"
