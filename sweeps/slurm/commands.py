"""Calls of Slurm's commands and their parsed answers. ``sacct`` is used where there is one, and never needed."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from nepa_scale.utils.errors import UserError

NEEDED = ("sbatch", "srun", "squeue", "scontrol", "scancel")
FIELDS = ("ArrayJobID", "ArrayTaskID", "State", "Reason", "exit_code", "restartcnt", "Comment")
_WAITS_OR_RUNS = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING")
LIVE = (*_WAITS_OR_RUNS, "STAGE_OUT", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
SECONDS = 120
WIDTH = 64  # squeue cuts off what is longer
CANCEL_AT_ONCE = 500
DEFAULT_MAX_ARRAY_SIZE = 1001


class SchedulerUnavailableError(UserError):
    """Slurm does not answer, as it restarts or is overloaded; this says nothing about the state of jobs."""


@dataclass(frozen=True)
class JobState:
    """What Slurm says of a job: ``state`` is Slurm's name of it, ``exit_status`` is that of wait(2).

    ``packed``: it was submitted to do several tasks.
    """

    job_id: str
    state: str
    reason: str = ""
    exit_status: int = 0
    restarts: int = 0
    comment: str = ""
    packed: bool = False

    @property
    def is_live(self) -> bool:
        """Whether it waits, runs, or will run again."""
        return self.state in LIVE


def check_available() -> None:
    """Raises ``UserError`` where Slurm's commands are missing."""
    missing = [command for command in NEEDED if shutil.which(command) is None]
    if missing:
        raise UserError(
            f"cluster=slurm: {', '.join(missing)} not found; launch from a login node, or use cluster=local"
        )


def my_jobs() -> list[JobState]:
    """Every job of this user that Slurm's controller still knows, array elements one by one; a single query.

    Raises ``SchedulerUnavailableError`` while the controller cannot be reached.
    """
    form = ",".join(f"{field}:{WIDTH}|" for field in FIELDS)
    answer = _ask(["squeue", "--me", "--noheader", "--array", "--states=all", "-O", form])
    return [parsed for line in answer.splitlines() if (parsed := _parse(line)) is not None]


def accounted(job_ids: Sequence[str]) -> dict[str, JobState]:
    """The states that the accounting has of jobs that the controller has forgotten; {} without accounting."""
    if not job_ids or shutil.which("sacct") is None:
        return {}
    arguments = ["sacct", "-n", "-X", "-P", "-o", "JobID,State,ExitCode", "-j", ",".join(job_ids)]
    try:
        done = _run(arguments)
    except subprocess.TimeoutExpired:
        return {}
    states = {}
    for line in done.stdout.splitlines() if done.returncode == 0 else []:
        job_id, state, code = line.split("|")
        status, _, number = code.partition(":")
        states[job_id] = JobState(job_id, state.split()[0], "", int(status) * 256 + int(number or 0))
    return states


def max_array_size() -> int:
    """How many elements an array may have here."""
    limit = re.search(r"^MaxArraySize\s*=\s*(\d+)", _ask(["scontrol", "show", "config"]), re.MULTILINE)
    return int(limit[1]) if limit else DEFAULT_MAX_ARRAY_SIZE


def cancel(job_ids: Sequence[str]) -> None:
    """Cancel jobs; those that have ended are ignored."""
    for start in range(0, len(job_ids), CANCEL_AT_ONCE):
        _ask(["scancel", "--quiet", *job_ids[start : start + CANCEL_AT_ONCE]], check=False)


def _ask(arguments: Sequence[str], *, check: bool = True) -> str:
    try:
        done = _run(arguments)
    except subprocess.TimeoutExpired as error:
        raise SchedulerUnavailableError(
            f"{arguments[0]}: no answer from Slurm within {SECONDS} s; try again later"
        ) from error
    if check and done.returncode:
        raise SchedulerUnavailableError(
            f"{arguments[0]}: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}"
        )
    return done.stdout


def _run(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False, timeout=SECONDS
    )


def _parse(line: str) -> JobState | None:
    cells = [cell.strip() for cell in line.split("|")]
    if len(cells) < len(FIELDS):
        return None
    array, index, state, reason, exit_status, restarts, comment = cells[: len(FIELDS)]
    job_id = f"{array}_{index}" if index.isdigit() else array
    return JobState(job_id, state, reason, _number(exit_status), _number(restarts), comment)


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0
