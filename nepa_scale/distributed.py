"""Which process this is among those of the run, and how they reach one another."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nepa_scale.errors import ConfigError

if TYPE_CHECKING:
    import torch

LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class World:
    """This process's place: ``rank`` of ``size``, ``local_rank`` on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files that exist once per run."""
        return self.rank == 0


def read_environment() -> World:
    """Find this process's place and complete the variables that torch and DeepSpeed need (torch-free).

    Understands the DeepSpeed launcher, torchrun, srun (SLURM_*) and a bare ``python`` call.
    Raises ``ConfigError`` when a launcher's variables are incomplete or contradict one another.
    """
    env = os.environ
    if "RANK" not in env and int(env.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in env:
        _map_slurm()
    if "RANK" not in env:
        env.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port()))
    missing = [name for name in LAUNCHER_VARIABLES if name not in env]
    if missing:
        raise ConfigError([f"environment: RANK is set but {', '.join(missing)} not; start through a launcher"])
    try:
        world = World(int(env["RANK"]), int(env["WORLD_SIZE"]), int(env["LOCAL_RANK"]))
    except ValueError as error:
        raise ConfigError([f"environment: RANK, WORLD_SIZE and LOCAL_RANK must be whole numbers ({error})"]) from error
    if not 0 <= world.rank < world.size:
        raise ConfigError([f"environment: RANK={world.rank} is not below WORLD_SIZE={world.size}"])
    _share_cores(world)
    return world


def initialise(world: World) -> torch.device:
    """Join the process group (NCCL on GPUs, gloo on CPUs) and return this process's device."""
    import torch

    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    if cuda:
        torch.cuda.set_device(world.local_rank)
    else:
        _skip_shared_memory_kernel()
    deepspeed.init_distributed(dist_backend="nccl" if cuda else "gloo", verbose=False)
    return torch.device("cuda", world.local_rank) if cuda else torch.device("cpu")


def shut_down() -> None:
    """Leave the process group together: without the barrier a rank may abort while another still talks to it."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def sum_over_ranks(tensors: Iterable[torch.Tensor]) -> None:
    """Replace each tensor by its sum over all ranks, in place."""
    import torch.distributed as dist

    if dist.is_initialized() and dist.get_world_size() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


def max_over_ranks(value: int, device: torch.device) -> int:
    """The largest of all ranks' values; every rank must call this at the same point."""
    import torch
    import torch.distributed as dist

    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return value
    largest = torch.tensor(value, device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest.item())


def first_text(text: str | None) -> str:
    """The text of the first rank that has one; every rank must call this at the same point."""
    return next((each for each in gather_objects(text) if each), "")


def gather_objects(value: Any) -> list[Any]:
    """What each rank gives, in the order of ranks; every rank must call this at the same point."""
    import torch.distributed as dist

    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait until every rank arrives."""
    import torch.distributed as dist

    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()


def _skip_shared_memory_kernel() -> None:
    """Keep DeepSpeed from compiling its CPU collectives: over a minute of C++ that training never uses."""
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def ranks_here(world: World) -> int:
    """The ranks on this machine, as the launcher says; all of them where it says nothing."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", world.size)))


def _share_cores(world: World) -> None:
    """Give each rank of this machine its own share of cores; oversubscribed OpenMP threads are ruinously slow."""
    local_size = ranks_here(world)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // local_size)))


def _map_slurm() -> None:
    env = os.environ
    nodes = subprocess.run(
        ["scontrol", "show", "hostnames", env["SLURM_JOB_NODELIST"]],
        capture_output=True,
        text=True,
        check=True,
    )
    env.update(RANK=env["SLURM_PROCID"], WORLD_SIZE=env["SLURM_NTASKS"], LOCAL_RANK=env["SLURM_LOCALID"])
    env.setdefault("MASTER_ADDR", nodes.stdout.split()[0])
    env.setdefault("MASTER_PORT", str(20000 + int(env["SLURM_JOB_ID"]) % 20000))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
