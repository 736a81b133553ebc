"""The record of what was submitted to Slurm, and the state of each of these jobs.

Each call of sbatch has a file, written before the call, as a launcher may be killed at any moment. The comment that
Slurm keeps with a job names that file, and the file has the task of each element. So a job is found again even if the
launcher was killed before it could note the job id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from nepa_scale.utils.files import read_json, write_json
from sweeps.slurm import commands
from sweeps.slurm.commands import JobState

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

    def element_ids(self) -> dict[str, str]:
        """{key: Slurm's id of the job that does it}; {} while Slurm's answer is not recorded."""
        if self.job_id is None:
            return {}
        if not self.is_array:
            return dict.fromkeys(self.keys, self.job_id)
        return {key: f"{self.job_id}_{index}" for index, key in enumerate(self.keys)}


def begin_submission(study_dir: Path, keys: Sequence[str], *, packed: bool = False) -> Submission:
    """Record that ``keys`` are about to be submitted together, ``packed`` into one job or as an array."""
    number = next_submission(study_dir)
    submission = Submission(number, submission_comment(study_dir, number), tuple(keys), packed=packed)
    _write(study_dir, submission)
    return submission


def next_submission(study_dir: Path) -> int:
    """The number of the next submission."""
    return max(map(_number, _records(study_dir)), default=0) + 1


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
    contents = [read_json(path) for path in sorted(_records(study_dir), key=_number)]
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


def _number(record: Path) -> int:
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
    for job in commands.my_jobs():
        by_comment.setdefault(job.comment, []).append(job)
    latest: dict[str, JobState] = {}
    for submission in recorded:
        for key in submission.keys:
            latest.pop(key, None)  # drops an older job of the same task
        latest |= _elements(submission, by_comment.get(submission.comment, []))
    forgotten = commands.accounted([job.job_id for job in latest.values() if job.state == GONE])
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
    ids = submission.element_ids()
    return {
        key: by_index.get(index if submission.is_array else 0) or JobState(ids.get(key, "?"), GONE)
        for index, key in enumerate(submission.keys)
    }
