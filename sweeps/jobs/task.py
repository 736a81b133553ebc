"""What the process of a job does: train one task of one run."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType

from nepa_scale.run_dir.paths import is_finished
from nepa_scale.run_dir.status import read_status
from sweeps.jobs.cancel_marker import CANCELLED, is_cancelled

PRINTED_NAME = "printed.err"


class TaskNotFinishedError(Exception):
    """The task ended before its end; raised so that submitit and Slurm know it too."""


class TaskInterruptedError(TaskNotFinishedError):
    """The task was told to stop, and has saved what it needs to go on."""


def run_task(run_directory: str, task: str) -> None:
    """Train one task of one run in this process, one of the task's ranks.

    Raises ``TaskNotFinishedError`` unless that ends well. Rank 0 alone judges: the others may be done before it has
    written the result.
    """
    for number in (signal.SIGTERM, signal.SIGUSR2):  # submitit bypasses or misreads them; the trainer takes over soon
        signal.signal(number, _leave)
    _take_rank()
    task_dir = Path(run_directory) / task
    main = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"
    if main:
        _show_output(task_dir)
    if is_cancelled(task_dir):
        raise TaskNotFinishedError(CANCELLED)
    from nepa_scale import train

    code = train.main([f"config={run_directory}/config.yaml", f"task={task}", f"run_dir={run_directory}"])
    if not main and code == 0:
        return
    status = read_status(task_dir)
    if code == 0 and status is not None and status.state == "preempted":
        raise TaskInterruptedError(f"told to stop after step {status.step}")
    if not is_finished(task_dir):
        raise TaskNotFinishedError(f"exit code {code}, state {status.state if status else 'none'}")


def _take_rank() -> None:
    """Tell torch what submitit's local executor tells its processes; Slurm's words the trainer understands itself."""
    env = os.environ
    if int(env.get("SUBMITIT_LOCAL_NTASKS", "1")) > 1:
        rank, size = env["SUBMITIT_LOCAL_GLOBALID"], env["SUBMITIT_LOCAL_NTASKS"]
        env.update(RANK=rank, LOCAL_RANK=env["SUBMITIT_LOCAL_LOCALID"], WORLD_SIZE=size, MASTER_ADDR="127.0.0.1")


def _show_output(task_dir: Path) -> None:
    """Link to what this process prints, for whoever looks for a reason in the task's folder."""
    import submitit

    printed = submitit.JobEnvironment().paths.stderr
    task_dir.mkdir(parents=True, exist_ok=True)
    temporary = task_dir / f".{PRINTED_NAME}.{os.getpid()}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(printed, task_dir))  # a study may be moved
    temporary.replace(task_dir / PRINTED_NAME)


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)
