"""The process of a job: the environment it is given, the task that it trains, and how a user cancels that task.

A cancelled task has a marker file in its folder, which every launch and queue honours until ``retry`` removes it. A
signal alone is not enough: a task that is told to stop saves its state, and the next launch continues it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType

from nepa_scale.distributed.world import without_launcher
from nepa_scale.run_dir.run_folder import is_finished
from nepa_scale.run_dir.status import read_status
from nepa_scale.utils import user_folder
from nepa_scale.utils.files import read_json, write_json

ROOT = Path(__file__).resolve().parents[2]
LAUNCH_NAME, DIRECTORY_KEY = "launch.json", "working_directory"
PRINTED_NAME = "printed.err"
CANCEL_MARKER = "cancelled"
CANCELLED = "cancelled"


class TaskNotFinishedError(Exception):
    """The task has no result; raised so that submitit and Slurm see a failure, too."""


class TaskInterruptedError(TaskNotFinishedError):
    """The task was told to stop, and has saved a checkpoint to continue from."""


def run_task(run_directory: str, task: str) -> None:
    """Train one task of one run in this process, one of the task's ranks.

    Raises ``TaskNotFinishedError`` where the task has no result afterwards. Only rank 0 looks for it, as others may end
    before rank 0 has written it.
    """
    _go_where_it_was_launched(Path(run_directory))
    for number in (signal.SIGTERM, signal.SIGUSR2):  # in place of submitit's handlers, until the trainer sets its own
        signal.signal(number, _leave)
    _take_rank()
    task_dir = Path(run_directory) / task
    main = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"
    if main:
        _show_output(task_dir)
    if is_cancelled(task_dir):
        raise TaskNotFinishedError(CANCELLED)
    from nepa_scale.train import main as train

    code = train([f"config={run_directory}/config.yaml", f"task={task}", f"run_dir={run_directory}"])
    if not main and code == 0:
        return
    status = read_status(task_dir)
    if code == 0 and status is not None and status.state == "preempted":
        raise TaskInterruptedError(f"told to stop after step {status.step}")
    if not is_finished(task_dir):
        raise TaskNotFinishedError(f"exit code {code}, state {status.state if status else 'none'}")


def note_launch(run_directory: Path) -> None:
    """Record this process's working directory and the user's folder, from where settings of a run name files."""
    own = user_folder.folder()
    here = {DIRECTORY_KEY: str(Path.cwd()), user_folder.KEY: None if own is None else str(own)}
    write_json(run_directory / LAUNCH_NAME, here)


def _go_where_it_was_launched(run_directory: Path) -> None:
    """Go where ``note_launch`` was; a retry, or the queue of an earlier launch, may be elsewhere. What is not recorded,
    or not here, stays."""
    with contextlib.suppress(OSError, ValueError):
        launched: dict[str, str | None] = read_json(run_directory / LAUNCH_NAME)
        folder, own = launched.get(DIRECTORY_KEY), launched.get(user_folder.KEY)
        if folder is not None and Path(folder).is_dir():
            os.chdir(folder)
        if own is not None and Path(own).is_dir():
            os.environ[user_folder.VARIABLE] = own


def _take_rank() -> None:
    """Translate the rank variables of submitit's local executor for torch; the trainer reads those of Slurm itself."""
    env = os.environ
    if int(env.get("SUBMITIT_LOCAL_NTASKS", "1")) > 1:
        rank, size = env["SUBMITIT_LOCAL_GLOBALID"], env["SUBMITIT_LOCAL_NTASKS"]
        env.update(RANK=rank, LOCAL_RANK=env["SUBMITIT_LOCAL_LOCALID"], WORLD_SIZE=size, MASTER_ADDR="127.0.0.1")


def _show_output(task_dir: Path) -> None:
    """Link the task's folder to the file that this process prints errors to."""
    import submitit

    printed = submitit.JobEnvironment().paths.stderr
    task_dir.mkdir(parents=True, exist_ok=True)
    temporary = task_dir / f".{PRINTED_NAME}.{os.getpid()}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(printed, task_dir))  # relative, as a study may be moved
    temporary.replace(task_dir / PRINTED_NAME)


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def mark_cancelled(task_dir: Path) -> None:
    """Put the cancel marker into the task's folder."""
    task_dir.mkdir(parents=True, exist_ok=True)
    (task_dir / CANCEL_MARKER).touch()


def is_cancelled(task_dir: Path) -> bool:
    """Whether a user has cancelled the task."""
    return (task_dir / CANCEL_MARKER).exists()


def clear_cancel_marker(task_dir: Path) -> None:
    """Remove the cancel marker."""
    (task_dir / CANCEL_MARKER).unlink(missing_ok=True)


def fresh_folder(parent: Path) -> Path:
    """The next numbered folder in ``parent``, so that files of an earlier submission are not mistaken for new ones."""
    used = [int(path.name) for path in parent.glob("*") if path.name.isdigit()]
    return parent.absolute() / str(max(used, default=0) + 1)


def environment_of_job(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of a new process: this one's with ``variables``, this checkout on the import path, and the
    user's folder.

    Variables that make this process a rank of some other job are left out.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return without_launcher(os.environ) | {"PYTHONPATH": path} | user_folder.environment() | dict(variables)


@contextlib.contextmanager
def job_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Give ``environment_of_job`` to the processes that are started in this context."""
    before = dict(os.environ)
    replaced = environment_of_job(variables)
    os.environ.clear()
    os.environ.update(replaced)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def ignoring_terminal_signals() -> Iterator[None]:
    """Let the processes that are started in this context ignore Ctrl-C (SIGINT), a closed terminal (SIGHUP), and
    Slurm's word that a job's time is nearly over (SIGUSR2).

    These reach all processes of a terminal or job, and submitit's controller would end itself or its job before the
    job has saved. Only the queue tells jobs to stop.
    """
    ignored = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
