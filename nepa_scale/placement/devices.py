"""The devices of a run: which GPUs this process may use, how much memory each has, and how a task is laid on them.

``CUDA_VISIBLE_DEVICES`` names GPUs by index, by UUID (``GPU-...``) or names parts of them (``MIG-...``); on AMD's,
``HIP_VISIBLE_DEVICES`` and ``ROCR_VISIBLE_DEVICES`` do. Without any of these all GPUs of the machine are meant. Which
there are is found without torch or CUDA; the memory of a GPU is measured by torch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from nepa_scale.config.schema import RunConfig
from nepa_scale.distributed.world import World, ranks_here
from nepa_scale.placement.memory import MemoryEstimate

DEVICES = Path("/dev")
NVIDIA_DRIVER = Path("/proc/driver/nvidia/gpus")
AMD_NODES = Path("/sys/class/kfd/kfd/topology/nodes")
CUDA, HIP, ROCR = "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"
UUIDS = ("GPU-", "MIG-")
#: What means no GPU where it stands first, and ends the list elsewhere. Slurm says NoDevFiles in jobs without GPUs.
NONE = ("", "-1", "nodevfiles", "none", "void")


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, as the environment names them, or else by index."""
    variable = _variable()
    if variable is None:
        return tuple(map(str, range(_number_here())))
    return tuple(dict.fromkeys(_named(os.environ[variable])))


def showing(gpus: Sequence[str]) -> dict[str, str]:
    """The environment of a process that is to see these of ``visible_gpus()`` and no others."""
    own = ",".join(gpus)
    variable = _variable()
    if variable == HIP:
        return {HIP: own, CUDA: own}
    if variable == ROCR:  # which numbers what it leaves from 0 on, before CUDA_VISIBLE_DEVICES is read
        return {ROCR: own, CUDA: ",".join(map(str, range(len(gpus))))}
    return {CUDA: own}


def has_gpu() -> bool:
    """Whether this machine has a GPU that this process may use."""
    return bool(_number_here() and visible_gpus())


def unseen() -> str | None:
    """Why GPUs that the user's environment names cannot be used here, as far as this machine tells; None without a
    reason."""
    variable = _variable()
    if variable is None or "CROSS_RANK" in os.environ:  # DeepSpeed's launcher numbers its ranks so on CPUs, too
        return None
    said = f"{variable}={os.environ[variable]}"
    words = [word.strip() for word in os.environ[variable].split(",")]
    names = _named(os.environ[variable])
    if len(names) < len(words) and words[len(names)].lower() not in NONE:
        return f"{said}: '{words[len(names)]}' is no GPU's index or UUID, so it and what follows it is not used"
    if len(set(names)) < len(names):
        return f"{said}: names a GPU twice, of which CUDA itself makes none"
    here, known = _number_here(), _uuids()
    if names and not here:
        return f"{said}: this machine shows no GPU; without one, training uses CPU cores"
    for name in names:
        absent = int(name) >= here if name.isdigit() else name.startswith("GPU-") and known and not _is_one(name, known)
        if absent:
            return f"{said}: this machine shows {here} GPUs, and {name} is not among them"
    return None


def _variable() -> str | None:
    """The variable that says which GPUs are visible; of several the one that counts on this machine."""
    order = (CUDA, HIP, ROCR)
    if AMD_NODES.is_dir() and not any(DEVICES.glob("nvidia[0-9]*")):
        order = (HIP, ROCR, CUDA)
    return next((name for name in order if name in os.environ), None)


def _named(text: str) -> list[str]:
    """The GPUs that a variable names: what follows the first word that names none does not count."""
    names: list[str] = []
    for word in text.split(","):
        name = word.strip()
        if not ((name.isascii() and name.isdigit()) or name.startswith(UUIDS)):
            break
        names.append(str(int(name)) if name.isdigit() else name)
    return names


def _number_here() -> int:
    """How many GPUs the system shows this process, NVIDIA's or else AMD's; 1 under WSL2, which has one file for all."""
    shown = len(list(DEVICES.glob("nvidia[0-9]*"))) or sum(map(_is_amd_gpu, AMD_NODES.glob("*/properties")))
    return shown or int((DEVICES / "dxg").exists())


def _is_amd_gpu(properties: Path) -> bool:
    """Whether a node of the driver's topology is a GPU: processors are nodes, too, without SIMD units."""
    try:
        fields = dict(line.split(maxsplit=1) for line in properties.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError):
        return False
    return fields.get("simd_count", "0").strip() != "0"


def _uuids() -> list[str]:
    """UUIDs of the NVIDIA GPUs, as far as the driver tells without being loaded."""
    found = []
    for path in NVIDIA_DRIVER.glob("*/information"):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError:
            return []
        found += [line.partition(":")[2].strip() for line in lines if line.startswith("GPU UUID")]
    return found


def _is_one(name: str, known: Sequence[str]) -> bool:
    """Whether ``name`` is a UUID or the beginning of one, which CUDA takes as well."""
    return any(uuid.lower().startswith(name.lower()) for uuid in known)


GIB = 2**30
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class DeviceMemory:
    """What one device can hold, in bytes (None = not known), and where the figure comes from.

    ``gpu``: the name of a GPU, where it is known. ``host``: what a GPU's rank may take of its machine's memory.
    """

    size: int | None
    source: str
    on_gpu: bool
    gpu: str | None = None
    host: int | None = None


def planned(config: RunConfig, world: World) -> DeviceMemory:
    """What is known before torch is loaded: a stated size, or this machine's memory shared by its ranks."""
    on_gpu = has_gpu()
    if config.engine.device_memory_gib is not None:
        return _stated(config, on_gpu=on_gpu)
    if on_gpu:
        asked = "the GPU is asked when training starts; or state engine.device_memory_gib"
        return DeviceMemory(None, asked, on_gpu, host=host_share(ranks_here(world)).size)
    return host_share(ranks_here(world))


def measured(config: RunConfig, world: World) -> DeviceMemory:
    """What this rank may use of its device, with torch loaded; ranks may find different sizes."""
    import torch

    on_gpu = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if on_gpu else None
    share = host_share(ranks_here(world))
    if config.engine.device_memory_gib is not None:
        return replace(_stated(config, on_gpu=on_gpu), gpu=name, host=share.size)
    if on_gpu:
        free, _ = torch.cuda.mem_get_info()
        return DeviceMemory(free, f"free on {name}", on_gpu, name, share.size)
    own = psutil.Process().memory_info().rss  # in use already, by this rank itself
    return replace(share, size=(share.size or 0) + own)


def host_share(processes: int) -> DeviceMemory:
    """This machine's available memory divided by ``processes`` that want it."""
    sharing = f", shared by {processes} processes" if processes > 1 else ""
    return DeviceMemory(available_host_memory() // processes, f"available on this machine{sharing}", on_gpu=False)


def available_host_memory() -> int:
    """Bytes that new processes may use: the system's, or less where a control group (Slurm, a container) says so."""
    return min([psutil.virtual_memory().available, *_left_in_control_groups()])


def _stated(config: RunConfig, *, on_gpu: bool) -> DeviceMemory:
    size = config.engine.device_memory_gib
    return DeviceMemory(int((size or 0) * GIB), "engine.device_memory_gib", on_gpu)


def _left_in_control_groups() -> list[int]:
    """What the limits of this process's group and of those above it leave (cgroup v2).

    Cached files are part of ``memory.current``, but the system drops them when memory is needed."""
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
            left += [max(0, int(limit) - max(0, int(used) - _cached(folder)))] if limit != "max" else []
        except (OSError, ValueError):
            continue
    return left


def _cached(folder: Path) -> int:
    """Bytes of files that a control group keeps in memory; 0 where it does not say."""
    try:
        lines = (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("inactive_file ", "active_file ")))


#: Of a device's memory the plan fills this much: the rest is for what no model foresees, such as the pieces between
#: blocks that an allocator cannot use.
FILL = 0.9


@dataclass(frozen=True)
class Placement:
    """How one task is laid on ``world_size`` devices.

    ``ds_config`` is a name in ds_configs/ or a path. ``micro_batch_size`` images pass through a device at a time,
    ``accumulation`` times for each step. ``memory`` is the estimate for one device, ``available`` what one has
    (None = not known); ``host_memory`` and ``host_available`` are the same of the host's memory, where states are
    offloaded to it. ``reasons``: why it is so, a line each.
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
    host_memory: int = 0
    host_available: int | None = None

    @property
    def fits(self) -> bool:
        """Whether the estimate leaves the spare part of the device's memory free."""
        return not self._lacks_host_memory and (self.available is None or self.memory.total <= FILL * self.available)

    @property
    def _lacks_host_memory(self) -> bool:
        return self.host_available is not None and self.host_memory > self.host_available

    @property
    def problem(self) -> str | None:
        """Why this should not be started, if the device, or the host that it offloads to, cannot hold it at all."""
        if self._lacks_host_memory:
            return (
                f"offloading needs about {gib(self.host_memory)} of this machine's memory per device, and"
                f" {gib(self.host_available or 0)} are available; engine.ds_config=auto, more machines or a smaller"
                " model.size may fit; force=true starts it all the same"
            )
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
