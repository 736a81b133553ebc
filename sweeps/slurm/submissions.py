"""The record of what was submitted: one file for each call of sbatch, written before it.

A launcher may be killed at any moment. The comment that Slurm keeps with every job names the file, and the file the
task of each element; so a job that was submitted a moment before the end is found again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from nepa_scale.utils.files import read_json, write_json

FOLDER = "slurm"


@dataclass(frozen=True)
class Submission:
    """One call of sbatch. ``keys``: run_id/task of each element, in order; ``job_id`` None until Slurm has answered."""

    number: int
    comment: str
    keys: tuple[str, ...]
    job_id: str | None = None

    def element_ids(self) -> dict[str, str]:
        """{key: Slurm's id of the job that does it}; {} while Slurm's answer is not recorded."""
        if self.job_id is None:
            return {}
        if len(self.keys) == 1:
            return {self.keys[0]: self.job_id}
        return {key: f"{self.job_id}_{index}" for index, key in enumerate(self.keys)}


def begin_submission(study_dir: Path, keys: Sequence[str]) -> Submission:
    """Record that ``keys`` are about to be submitted together."""
    number = next_submission(study_dir)
    submission = Submission(number, submission_comment(study_dir, number), tuple(keys))
    _write(study_dir, submission)
    return submission


def next_submission(study_dir: Path) -> int:
    """The number of the next submission."""
    return max(map(_number, _records(study_dir)), default=0) + 1


def submission_comment(study_dir: Path, number: int) -> str:
    """What Slurm keeps with every job of a submission."""
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
    """What the ranks of a job, and Slurm about it, wrote to standard error, rank 0 first: any of them may have failed
    first, and Slurm ends the others."""
    found = list((study_dir / FOLDER).glob(f"*/{job_id}_*_log.err"))
    newest = max((int(path.parent.name) for path in found), default=0)
    ranks = {int(path.name.split("_")[-2]): path for path in found if int(path.parent.name) == newest}
    return "\n".join(ranks[rank].read_text(encoding="utf-8", errors="replace") for rank in sorted(ranks))


def _records(study_dir: Path) -> list[Path]:
    return list((study_dir / FOLDER).glob("*.json"))


def _number(record: Path) -> int:
    return int(record.stem)


def _write(study_dir: Path, submission: Submission) -> None:
    write_json(study_dir / FOLDER / f"{submission.number}.json", asdict(submission))


def _digest(study_dir: Path) -> str:
    """Tells studies apart that one user has in Slurm."""
    return hashlib.sha256(str(study_dir.absolute()).encode()).hexdigest()[:8]
