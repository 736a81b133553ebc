"""How much memory each device of a run has: stated, or found on this machine. Free of torch unless there is a GPU."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from nepa_scale.config.schema import RunConfig
from nepa_scale.distributed.world import World, ranks_here
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


def found(config: RunConfig, world: World) -> DeviceMemory:
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
        own = Path("/proc/self/cgroup").read_text(encoding="utf-8").rpartition("::")[2].strip().lstrip("/")
    except OSError:
        return []
    left = []
    for folder in [CGROUP / own, *(CGROUP / own).parents]:
        try:
            limit, used = (
                (folder / name).read_text(encoding="utf-8").strip() for name in ("memory.max", "memory.current")
            )
            left += [max(0, int(limit) - int(used))] if limit != "max" else []
        except (OSError, ValueError):
            continue
    return left
