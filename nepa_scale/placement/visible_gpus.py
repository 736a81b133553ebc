"""Which GPUs this process may use, by the names under which it may hand them on. Neither torch nor CUDA is loaded.

``CUDA_VISIBLE_DEVICES`` names GPUs by index, by UUID (``GPU-...``) or names parts of them (``MIG-...``); on AMD's,
``HIP_VISIBLE_DEVICES`` and ``ROCR_VISIBLE_DEVICES`` do. Without any of these all GPUs of the machine are meant.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

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
    """How many GPUs the system shows this process, NVIDIA's or else AMD's."""
    return len(list(DEVICES.glob("nvidia[0-9]*"))) or sum(map(_is_amd_gpu, AMD_NODES.glob("*/properties")))


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
