"""What was submitted to Slurm, and the state of each of these jobs, from Slurm's own commands.

Each call of sbatch has a file, written before the call, as a launcher may be killed at any moment. The comment that
Slurm keeps with a job names that file, and the file has the task of each element. So a job is found again even if the
launcher was killed before it could note the job id. ``sacct`` is used where there is one, and never needed.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from nepa_scale.utils.errors import UserError
from nepa_scale.utils.files import read_json, write_json

NEEDED = ("sbatch", "srun", "squeue", "scontrol", "scancel")
SQUEUE_FIELDS = ("ArrayJobID", "ArrayTaskID", "State", "Reason", "exit_code", "restartcnt", "Comment")
_WAITS_OR_RUNS = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING")
LIVE = (*_WAITS_OR_RUNS, "STAGE_OUT", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
ANSWER_SECONDS = 120
FIELD_WIDTH = 64  # squeue cuts off what is longer
CANCEL_AT_ONCE = 500
DEFAULT_MAX_ARRAY_SIZE = 1001
FOLDER = "slurm"
GONE = "GONE"
NOT_STARTED = ("DependencyNeverSatisfied", "Dependency")
ENDS = {
    "OUT_OF_MEMORY": "oom: Slurm ended it for using more memory than it asked for; raise cluster.mem_gb",
    "TIMEOUT": "timeout: the time limit of its job is over; raise cluster.timeout_min",
    "DEADLINE": "timeout: the deadline of its job is over",
    "NODE_FAIL": "node failed: the machine it ran on is lost",
    "BOOT_FAIL": "node failed: the machine it was to run on did not start",
    "CANCELLED": "cancelled: its job was cancelled in Slurm",
    GONE: "lost: Slurm does not know its job any more",
}
OUT_OF_MEMORY = ("oom-kill", "oom_kill", "exceeded memory limit")


class SchedulerUnavailableError(UserError):
    """Slurm does not answer, as it restarts, is overloaded or elsewhere; this says nothing about the state of jobs."""


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
    form = ",".join(f"{field}:{FIELD_WIDTH}|" for field in SQUEUE_FIELDS)
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
    except FileNotFoundError as error:
        raise SchedulerUnavailableError(f"{arguments[0]}: not found; call this where Slurm is installed") from error
    except subprocess.TimeoutExpired as error:
        raise SchedulerUnavailableError(
            f"{arguments[0]}: no answer from Slurm within {ANSWER_SECONDS} s; try again later"
        ) from error
    if check and done.returncode:
        raise SchedulerUnavailableError(
            f"{arguments[0]}: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}"
        )
    return done.stdout


def _run(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        timeout=ANSWER_SECONDS,
    )


def _parse(line: str) -> JobState | None:
    cells = [cell.strip() for cell in line.split("|")]
    if len(cells) < len(SQUEUE_FIELDS):
        return None
    array, index, state, reason, exit_status, restarts, comment = cells[: len(SQUEUE_FIELDS)]
    job_id = f"{array}_{index}" if index.isdigit() else array
    return JobState(job_id, state, reason, _number(exit_status), _number(restarts), comment)


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


@dataclass(frozen=True)
class Submission:
    """One call of sbatch. ``keys``: run_id/task of each element, in order; ``job_id`` None until Slurm has answered.

    ``packed``: one job does all ``keys``.
    """

    number: int
    comment: str
    keys: tuple[str, ...]
    job_id: str | None = None
    packed: bool = False

    @property
    def is_array(self) -> bool:
        """Whether each key has a job of its own among several."""
        return len(self.keys) > 1 and not self.packed

    def element_id(self, index: int) -> str:
        """Slurm's id of the job that does the key of this ``index``; ? while Slurm's answer is not recorded."""
        return "?" if self.job_id is None else f"{self.job_id}_{index}" if self.is_array else self.job_id


def begin_submission(study_dir: Path, keys: Sequence[str], *, packed: bool = False) -> Submission:
    """Record that ``keys`` are about to be submitted together, ``packed`` into one job or as an array."""
    number = next_submission(study_dir)
    submission = Submission(number, submission_comment(study_dir, number), tuple(keys), packed=packed)
    _write(study_dir, submission)
    return submission


def next_submission(study_dir: Path) -> int:
    """The number of the next submission."""
    return max(map(_submission_number, _records(study_dir)), default=0) + 1


def submission_comment(study_dir: Path, number: int) -> str:
    """The comment by which the jobs of a submission are found in Slurm."""
    return f"nepa_scale:{_digest(study_dir)}:{number}"


def record_job_id(study_dir: Path, submission: Submission, job_id: str) -> Submission:
    """Record Slurm's answer."""
    known = replace(submission, job_id=job_id)
    _write(study_dir, known)
    return known


def read_submissions(study_dir: Path) -> list[Submission]:
    """Every submission of the study, oldest first."""
    contents = [read_json(path) for path in sorted(_records(study_dir), key=_submission_number)]
    return [Submission(**(content | {"keys": tuple(content["keys"])})) for content in contents]


def submission_folder(study_dir: Path, submission: Submission) -> Path:
    """Where submitit puts its files for the submission."""
    return (study_dir / FOLDER / str(submission.number)).absolute()


def printed_errors(study_dir: Path, job_id: str) -> str:
    """What the ranks of a job, and Slurm itself, wrote to standard error, rank 0 first.

    All ranks count, as any of them may have failed first, upon which Slurm ends the others.
    """
    logs = list((study_dir / FOLDER).glob(f"*/{job_id}_*_log.err"))
    newest = max((int(path.parent.name) for path in logs), default=0)
    ranks = {int(path.name.split("_")[-2]): path for path in logs if int(path.parent.name) == newest}
    return "\n".join(ranks[rank].read_text(encoding="utf-8", errors="replace") for rank in sorted(ranks))


def _records(study_dir: Path) -> list[Path]:
    return list((study_dir / FOLDER).glob("*.json"))


def _submission_number(record: Path) -> int:
    return int(record.stem)


def _write(study_dir: Path, submission: Submission) -> None:
    write_json(study_dir / FOLDER / f"{submission.number}.json", asdict(submission))


def _digest(study_dir: Path) -> str:
    """Tells apart the studies of one user."""
    return hashlib.sha256(str(study_dir.absolute()).encode()).hexdigest()[:8]


def states(study_dir: Path) -> dict[str, JobState]:
    """{run_id/task: the state of its latest job}; a job that Slurm no longer knows is ``GONE``."""
    recorded = read_submissions(study_dir)
    if not recorded:
        return {}
    by_comment: dict[str, list[JobState]] = {}
    for job in my_jobs():
        by_comment.setdefault(job.comment, []).append(job)
    latest: dict[str, JobState] = {}
    for submission in recorded:
        for key in submission.keys:
            latest.pop(key, None)  # drops an older job of the same task
        latest |= _elements(submission, by_comment.get(submission.comment, []))
    forgotten = accounted([job.job_id for job in latest.values() if job.state == GONE])
    return {key: forgotten.get(job.job_id, job) for key, job in latest.items()}


def failure_reason(job: JobState, printed: str = "") -> str:
    """Why the task of an ended job is not finished; ``printed`` is what its ranks wrote to standard error."""
    if job.state == "OUT_OF_MEMORY" or any(word in printed for word in OUT_OF_MEMORY):
        return ENDS["OUT_OF_MEMORY"]
    if job.state == "CANCELLED" and job.reason in NOT_STARTED:
        return "not started: what it waits for failed"
    if job.state in ENDS:
        return ENDS[job.state]
    code = job.exit_status >> 8
    signal = job.exit_status & 0x7F or max(0, code - 128)
    how = f"killed by signal {signal}" if signal else f"ended before its end, exit code {code}"
    return f"{how} (Slurm job {job.job_id})"


def _elements(submission: Submission, known: Sequence[JobState]) -> dict[str, JobState]:
    """The state of each task of a submission."""
    if not known and submission.job_id is None:
        return {}  # the launcher was killed before it called sbatch
    if submission.is_array:
        known = [job for job in known if "_" in job.job_id]
    known = [replace(job, packed=submission.packed) for job in known]
    by_index = {int(job.job_id.rpartition("_")[2]) if submission.is_array else 0: job for job in known}
    return {
        key: by_index.get(index if submission.is_array else 0) or JobState(submission.element_id(index), GONE)
        for index, key in enumerate(submission.keys)
    }
