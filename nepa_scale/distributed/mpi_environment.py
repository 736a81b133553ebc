"""What mpirun tells its ranks, in the words of torch: Open MPI, MPICH, Intel MPI and MVAPICH."""

from __future__ import annotations

import os

import psutil

from nepa_scale.distributed.slurm_environment import FIRST_PORT, PORTS
from nepa_scale.utils.errors import ConfigError

#: Names of a rank, the number of ranks, the rank and the number of ranks on its machine, by implementation.
DIALECTS = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)
STARTERS = "start with torchrun, deepspeed, srun, or the mpirun of Open MPI, MPICH or Intel MPI"


def map_mpi() -> str | None:
    """Set RANK, WORLD_SIZE, LOCAL_RANK and, unless they are given, MASTER_ADDR and MASTER_PORT.

    Returns the name of the variable that holds the number of ranks; None where mpirun did not start this process as
    one of several. Ranks on one machine meet there, at a port that follows from the process that started them all.

    Raises:
        ConfigError: where the ranks cannot find each other by what mpirun says.
    """
    env = os.environ
    for rank, size, local_rank, local_size in DIALECTS:
        if rank not in env or env.get(size, "1") == "1":
            continue
        missing = [name for name in (local_rank, local_size) if name not in env]
        if missing and "SLURM_PROCID" in env:  # srun's pmi2 says these, too, and Slurm itself says more
            continue
        if missing:
            raise ConfigError([f"environment: {rank} is set but {', '.join(missing)} not; {STARTERS}"])
        if env[local_size] == env[size]:
            env.setdefault("MASTER_ADDR", "127.0.0.1")
            env.setdefault("MASTER_PORT", str(FIRST_PORT + _starter(rank) % PORTS))
        elif not {"MASTER_ADDR", "MASTER_PORT"} <= env.keys():
            raise ConfigError(
                [
                    f"environment: {size}={env[size]}, but {local_size}={env[local_size]}: on several machines give"
                    " MASTER_ADDR, rank 0's host, and MASTER_PORT, which is free there, to all ranks"
                ]
            )
        env.update(RANK=env[rank], WORLD_SIZE=env[size], LOCAL_RANK=env[local_rank], LOCAL_WORLD_SIZE=env[local_size])
        return size
    if "PMIX_RANK" in env and not {"SLURM_PROCID", DIALECTS[0][0]} & env.keys():
        raise ConfigError([f"environment: PMIX_RANK is set, which does not say how many ranks there are; {STARTERS}"])
    return None


def _starter(rank_name: str) -> int:
    """The pid of the process that started all ranks of this machine: the nearest that is not in a rank itself, as a
    shell between mpirun and Python is."""
    for process in psutil.Process().parents():
        try:
            if rank_name not in process.environ():
                return process.pid
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            return process.pid
    return os.getppid()
