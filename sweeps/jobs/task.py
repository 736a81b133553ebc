"""What the process of a job does: train one task of one run."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType

from nepa_scale.distributed.inherited import without_launcher
from nepa_scale.run_dir.paths import is_finished
from nepa_scale.run_dir.status import read_status

ROOT = Path(__file__).resolve().parents[2]
PRINTED_NAME = "printed.err"
CANCEL_MARKER = "cancelled"
CANCELLED = "cancelled"


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


def mark_cancelled(task_dir: Path) -> None:
    """Mark the task as cancelled."""
    task_dir.mkdir(parents=True, exist_ok=True)
    (task_dir / CANCEL_MARKER).touch()


def is_cancelled(task_dir: Path) -> bool:
    """Whether the task is cancelled."""
    return (task_dir / CANCEL_MARKER).exists()


def clear_cancel_marker(task_dir: Path) -> None:
    """Lift the mark."""
    (task_dir / CANCEL_MARKER).unlink(missing_ok=True)


def fresh_folder(parent: Path) -> Path:
    """The next numbered folder in ``parent``: an old submission's files would pass for the new one's."""
    used = [int(path.name) for path in parent.glob("*") if path.name.isdigit()]
    return parent.absolute() / str(max(used, default=0) + 1)


def environment_of_job(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that does work of its own: ``variables``, this checkout on the import path, and no
    place among the ranks of whatever started this process."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return without_launcher(os.environ) | {"PYTHONPATH": path} | dict(variables)


@contextlib.contextmanager
def job_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """``environment_of_job`` for processes started meanwhile."""
    before = dict(os.environ)
    wanted = environment_of_job(variables)
    os.environ.clear()
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def spared_from_the_terminal() -> Iterator[None]:
    """Let processes started meanwhile ignore Ctrl-C and hang-up of the terminal.

    Both reach a whole process group, and submitit's controller would then kill its job within a second,
    before it has saved. The queue alone tells jobs to stop.
    """
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
