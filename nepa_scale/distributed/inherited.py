"""What a launcher of parallel programs tells the processes it starts, which is not true of those that they start."""

from __future__ import annotations

from collections.abc import Mapping

PREFIXES = ("SLURM_", "OMPI_", "PMI_", "PMIX_", "PRTE_", "MPI_LOCAL", "MV2_COMM_", "HYDI_", "TORCHELASTIC_")
NAMES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "LOCAL_SIZE",
    "CROSS_RANK",
    "CROSS_SIZE",
    "GROUP_RANK",
    "GROUP_WORLD_SIZE",
    "ROLE_RANK",
    "ROLE_NAME",
    "ROLE_WORLD_SIZE",
)


def without_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` without a place among the ranks of srun, mpirun, torchrun or deepspeed."""
    return {name: text for name, text in environment.items() if not (name in NAMES or name.startswith(PREFIXES))}
