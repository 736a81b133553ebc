"""What srun tells its tasks, in the words of torch: rank, number of ranks, and where rank 0 is."""

from __future__ import annotations

import os
import re

import psutil

from nepa_scale.utils.errors import ConfigError

STEP_SIZE = "SLURM_STEP_NUM_TASKS"
FIRST_PORT, PORTS = 20000, 20000
STEP_STRIDE = 997  # keeps the ports of a job's steps apart from one another's and from the next jobs'
_RANGES = re.compile(r"\[(\w+)(?:[-,][\w,-]*)?\]")
_HOST = re.compile(r"[\w.-]+")


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
    if "MASTER_ADDR" not in env:
        names = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
        name = next((name for name in names if name in env), None)
        if name is None:
            raise ConfigError([f"environment: none of {', '.join(names)} is set; give MASTER_ADDR, rank 0's host"])
        env["MASTER_ADDR"] = first_host(name, env[name])
    port = FIRST_PORT + (_number("SLURM_JOB_ID") + STEP_STRIDE * _number("SLURM_STEP_ID", "0")) % PORTS
    env.setdefault("MASTER_PORT", str(port))
    return STEP_SIZE


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
        words = psutil.Process(task).cmdline()
    except psutil.Error:
        return False
    return task != os.getpid() and all(word.startswith("-") for word in words[1:])


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
