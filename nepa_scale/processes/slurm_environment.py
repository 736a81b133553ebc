"""What srun tells its tasks, in the words of torch: rank, number of ranks, and where rank 0 is."""

from __future__ import annotations

import os
import re

from nepa_scale.errors import ConfigError

FIRST_PORT, PORTS = 20000, 20000
STEP_STRIDE = 997  # keeps the ports of a job's steps apart from one another's and from the next jobs'
_RANGES = re.compile(r"\[(\w+)(?:[-,][\w,-]*)?\]")
_HOST = re.compile(r"[\w.-]+")


def is_task_of_srun() -> bool:
    """Whether Slurm started this process as one of several, and no other launcher did."""
    env = os.environ
    return "RANK" not in env and "SLURM_PROCID" in env and _number("SLURM_NTASKS", "1") > 1


def map_slurm() -> None:
    """Set RANK, WORLD_SIZE, LOCAL_RANK and, unless they are given, MASTER_ADDR and MASTER_PORT.

    Task 0 of a step runs on the first of its nodes. The port follows from the job and the step, so that jobs that
    share a node do not meet.

    Raises:
        ConfigError: naming the variable that is missing or cannot be understood.
    """
    env = os.environ
    missing = [name for name in ("SLURM_LOCALID", "SLURM_JOB_ID") if name not in env]
    if missing:
        raise ConfigError([f"environment: SLURM_PROCID is set but {', '.join(missing)} not; start with srun"])
    env.update(RANK=env["SLURM_PROCID"], WORLD_SIZE=env["SLURM_NTASKS"], LOCAL_RANK=env["SLURM_LOCALID"])
    if "MASTER_ADDR" not in env:
        names = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
        name = next((name for name in names if name in env), None)
        if name is None:
            raise ConfigError([f"environment: none of {', '.join(names)} is set; give MASTER_ADDR, rank 0's host"])
        env["MASTER_ADDR"] = first_host(name, env[name])
    port = FIRST_PORT + (_number("SLURM_JOB_ID") + STEP_STRIDE * _number("SLURM_STEP_ID", "0")) % PORTS
    env.setdefault("MASTER_PORT", str(port))


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
