"""Which process this is among those of its run, by what deepspeed, torchrun, mpirun or srun say."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import psutil

from nepa_scale.distributed.processes import cores, free_port
from nepa_scale.utils.errors import ConfigError, RankError

LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
STEP_SIZE = "SLURM_STEP_NUM_TASKS"
FIRST_PORT, PORTS = 20000, 20000
STEP_STRIDE = 997  # keeps the ports of a job's steps apart from one another's and from the next jobs'
_RANGES = re.compile(r"\[(\w+)(?:[-,][\w,-]*)?\]")
_HOST = re.compile(r"[\w.-]+")
#: Names of a rank, the number of ranks, the rank and the number of ranks on its machine, by implementation.
MPI_VARIABLES = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)
STARTERS = "start with torchrun, deepspeed, srun, or the mpirun of Open MPI, MPICH or Intel MPI"
_LAUNCHER_PREFIXES = ("SLURM_", "OMPI_", "PMI_", "PMIX_", "PRTE_", "MPI_LOCAL", "MV2_COMM_", "HYDI_", "TORCHELASTIC_")
_LAUNCHER_NAMES = (
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


@dataclass(frozen=True)
class World:
    """This process's place: ``rank`` of ``size``, ``local_rank`` on its machine.

    ``size_variable`` is the environment variable that says ``size``, for messages.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    size_variable: str = field(default="WORLD_SIZE", compare=False)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files that exist once per run."""
        return self.rank == 0


def read_environment() -> World:
    """Find this process's place and complete the variables that torch and DeepSpeed need (torch-free).

    Understands the DeepSpeed launcher, torchrun, mpirun, srun (SLURM_*) and a bare ``python`` call.
    Raises ``ConfigError`` when a launcher's variables are incomplete or contradict one another.
    """
    env = os.environ
    size_variable = "WORLD_SIZE"
    if "RANK" not in env:  # mpirun first: on other nodes of a Slurm job its daemons are tasks of srun
        size_variable = map_mpi() or map_slurm() or size_variable
    if "RANK" not in env:
        env.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    missing = [name for name in LAUNCHER_VARIABLES if name not in env]
    if missing:
        raise ConfigError([f"environment: RANK is set but {', '.join(missing)} not; start through a launcher"])
    try:
        rank, size, local_rank, port = (int(env[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"))
    except ValueError as error:
        raise RankError(
            [f"environment: RANK, WORLD_SIZE, LOCAL_RANK and MASTER_PORT must be whole numbers ({error})"]
        ) from error
    if not 0 <= rank < size:
        raise RankError([f"environment: RANK={rank} is not below WORLD_SIZE={size}"])
    if not 0 < port < 2**16:
        raise RankError([f"environment: MASTER_PORT={port} must be from 1 to 65535"])
    world = World(rank, size, local_rank, size_variable)
    _share_cores(world)
    return world


def ranks_here(world: World) -> int:
    """The ranks on this machine, as the launcher says; all of them where it says nothing."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", world.size)))


def _share_cores(world: World) -> None:
    """Give each rank of this machine its own cores: more OpenMP threads than cores are ruinously slow."""
    of_task = threads_of_task()
    # The ranks of torchrun and deepspeed share a task of Slurm, or all cores of a batch script.
    is_task = world.size_variable != "WORLD_SIZE" or os.environ.get(STEP_SIZE) == str(world.size)
    threads = of_task if of_task is not None and is_task else cores() // ranks_here(world)
    if "OMP_NUM_THREADS" not in os.environ or _torchrun_chose():
        os.environ["OMP_NUM_THREADS"] = str(max(1, threads))


def _torchrun_chose() -> bool:
    """Whether torchrun set OMP_NUM_THREADS=1, as it does for several ranks where its user set nothing."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["OMP_NUM_THREADS"] != "1":
        return False
    try:
        launcher = psutil.Process().parent()
        return launcher is not None and "OMP_NUM_THREADS" not in launcher.environ()  # as torchrun itself was started
    except psutil.Error:
        return False


def map_slurm() -> str | None:
    """Set RANK, WORLD_SIZE, LOCAL_RANK and, unless they are given, MASTER_ADDR and MASTER_PORT.

    Returns the name of the variable that holds the number of ranks; None where srun did not start this process as one
    of several. Task 0 of a step runs on the first of its nodes. The port follows from the job and the step, so that
    jobs that share a node do not meet.

    Raises:
        ConfigError: naming the variable that is missing or cannot be understood.
    """
    if not _is_task_of_srun():
        return None
    env = os.environ
    missing = [name for name in ("SLURM_LOCALID", "SLURM_JOB_ID") if name not in env]
    if missing:
        raise ConfigError([f"environment: SLURM_PROCID is set but {', '.join(missing)} not; start with srun"])
    env.update(RANK=env["SLURM_PROCID"], WORLD_SIZE=env[STEP_SIZE], LOCAL_RANK=env["SLURM_LOCALID"])
    if (here := _tasks_here()) is not None:
        env["LOCAL_WORLD_SIZE"] = str(here)
    if "MASTER_ADDR" not in env:
        names = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
        name = next((name for name in names if name in env), None)
        if name is None:
            raise ConfigError([f"environment: none of {', '.join(names)} is set; give MASTER_ADDR, rank 0's host"])
        env["MASTER_ADDR"] = first_host(name, env[name])
    port = FIRST_PORT + (_number("SLURM_JOB_ID") + STEP_STRIDE * _number("SLURM_STEP_ID", "0")) % PORTS
    env.setdefault("MASTER_PORT", str(port))
    return STEP_SIZE


def _tasks_here() -> int | None:
    """The tasks of this step on this node, out of a list such as ``2(x3),1``; None where Slurm does not say."""
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")):
        counts += [int(count)] * int(times or 1)
    node = _number("SLURM_NODEID", "0")
    return counts[node] if node < len(counts) else None


def _is_task_of_srun() -> bool:
    """Whether srun started this process as one of several.

    SLURM_NTASKS alone does not say so: a batch script and the shell of an allocation have it, too, for the steps that
    they may start. In a step both numbers are the same; others are left over from the shell that called sbatch.
    """
    size = _number(STEP_SIZE, "1")
    own_step = "SLURM_PROCID" in os.environ and _number("SLURM_NTASKS", str(size)) == size
    return own_step and size > 1 and not _is_typed()


def _is_typed() -> bool:
    """Whether this process was started from the shell that ``srun --pty`` shows: its other tasks are shells that have
    ended, as they had nothing to read."""
    if "SLURM_PTY_PORT" not in os.environ or "SLURM_TASK_PID" not in os.environ:
        return False
    task = _number("SLURM_TASK_PID")
    try:
        arguments = psutil.Process(task).cmdline()
    except psutil.Error:
        return False
    return task != os.getpid() and all(argument.startswith("-") for argument in arguments[1:])


def first_host(name: str, nodes: str) -> str:
    """The first host of Slurm's list ``nodes``, e.g. of ``gpu[003-004,7],login`` it is ``gpu003``.

    Raises:
        ConfigError: naming the variable ``name`` that holds the list, when it is not one.
    """
    host = _RANGES.sub(r"\1", nodes).split(",")[0]
    if not _HOST.fullmatch(host):
        raise ConfigError([f"environment: {name}={nodes} is not a list of hosts; give MASTER_ADDR, rank 0's host"])
    return host


def threads_of_task() -> int | None:
    """The cores that Slurm gave each task, which it may have bound to them; None where that was left open."""
    return _number("SLURM_CPUS_PER_TASK") if "SLURM_CPUS_PER_TASK" in os.environ else None


def _number(name: str, default: str | None = None) -> int:
    text = os.environ[name] if default is None else os.environ.get(name, default)
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(
            [f"environment: {name}={text} is not a whole number; is it left from another job?"]
        ) from error


def map_mpi() -> str | None:
    """Set RANK, WORLD_SIZE, LOCAL_RANK and, unless they are given, MASTER_ADDR and MASTER_PORT.

    Returns the name of the variable that holds the number of ranks; None where mpirun did not start this process as
    one of several. Ranks on one machine meet there, at a port that follows from the process that started them all.

    Raises:
        ConfigError: where the ranks cannot find each other by what mpirun says.
    """
    env = os.environ
    for rank, size, local_rank, local_size in MPI_VARIABLES:
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
    if "PMIX_RANK" in env and not {"SLURM_PROCID", MPI_VARIABLES[0][0]} & env.keys():
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


def without_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` without the variables by which srun, mpirun, torchrun or deepspeed number their processes."""
    return {
        name: text
        for name, text in environment.items()
        if not (name in _LAUNCHER_NAMES or name.startswith(_LAUNCHER_PREFIXES))
    }
