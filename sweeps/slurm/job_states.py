"""What became of a study's jobs, from Slurm's own memory and the record of what was submitted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sweeps.slurm import commands
from sweeps.slurm.commands import JobState
from sweeps.slurm.submissions import Submission, read_submissions

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


def states(study_dir: Path) -> dict[str, JobState]:
    """{run_id/task: the state of the job that last was to do it}; one that Slurm has forgotten is ``GONE``."""
    recorded = read_submissions(study_dir)
    if not recorded:
        return {}
    by_comment: dict[str, list[JobState]] = {}
    for job in commands.my_jobs():
        by_comment.setdefault(job.comment, []).append(job)
    found: dict[str, JobState] = {}
    for submission in recorded:
        for key in submission.keys:
            found.pop(key, None)  # an older job of the same task
        found |= _elements(submission, by_comment.get(submission.comment, []))
    forgotten = commands.accounted([job.job_id for job in found.values() if job.state == GONE])
    return {key: forgotten.get(job.job_id, job) for key, job in found.items()}


def verdict(job: JobState, printed: str = "") -> str:
    """Why the task of a job that has ended is not finished; ``printed`` is what its ranks did."""
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
        return {}  # the launcher ended before Slurm had it
    single = len(submission.keys) == 1
    known = [job for job in known if single or "_" in job.job_id]
    by_index = {0 if single else int(job.job_id.rpartition("_")[2]): job for job in known}
    ids = submission.element_ids()
    found = {}
    for index, key in enumerate(submission.keys):
        job = by_index.get(index)
        found[key] = job or JobState(ids.get(key, "?"), GONE)
    return found
