"""Jobs on Slurm, through submitit: each task is a job, chained to the one it waits for."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import submitit

from nepa_scale.errors import UserError
from sweeps.executors import fresh_folder, job_environment
from sweeps.schedule import Job
from sweeps.settings import SlurmSettings


def check_available() -> None:
    """Raises ``UserError`` where Slurm's commands are missing."""
    missing = [command for command in ("sbatch", "srun", "squeue") if shutil.which(command) is None]
    if missing:
        raise UserError(
            f"cluster=slurm: {', '.join(missing)} not found; launch from a login node, or use cluster=local"
        )


def submit_all(
    jobs: Sequence[Job], settings: SlurmSettings, study_dir: Path, mark: Callable[[Job, str], None]
) -> dict[str, str]:
    """Submit ``jobs``, parents first; returns {key: Slurm job id}. A job still queued or running stays.

    ``mark`` notes a job's state: submitted just before it is, planned where Slurm refuses it. Raises
    ``UserError`` with Slurm's own words.
    """
    live = live_jobs()
    job_ids: dict[str, str] = {}
    for job in jobs:
        name = job_name(job, study_dir)
        if name in live:
            job_ids[job.key] = live[name]
        else:
            mark(job, "submitted")
            try:
                job_ids[job.key] = _submit(job, settings, name, [job_ids[parent] for parent in job.after])
            except UserError:
                mark(job, "planned")
                raise
    return job_ids


def job_name(job: Job, study_dir: Path) -> str:
    """A name that carries run and task, and tells apart study directories that share a run."""
    return f"{job.key}@{hashlib.sha256(str(study_dir.absolute()).encode()).hexdigest()[:6]}"


def live_jobs() -> dict[str, str]:
    """{name: job id} of this user's jobs that wait or run."""
    command = [
        "squeue",
        "--me",
        "--noheader",
        "--states=PENDING,RUNNING,COMPLETING,CONFIGURING",
        "--format=%i %j",
    ]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise UserError(f"squeue: {answer.stderr.strip()}")
    return {name: job_id for job_id, _, name in (line.partition(" ") for line in answer.stdout.splitlines())}


def parameters(settings: SlurmSettings, name: str, parents: Sequence[str]) -> dict[str, Any]:
    """What submitit is told about one job."""
    # Without kill-on-invalid-dep a job whose parent failed would stay pending for ever.
    dependency = {"dependency": f"afterok:{':'.join(parents)}", "kill-on-invalid-dep": "yes"} if parents else {}
    return {
        "name": name,
        "nodes": settings.nodes,
        "tasks_per_node": settings.tasks_per_node,
        "gpus_per_node": settings.gpus_per_node or None,
        "cpus_per_task": settings.cpus_per_task,
        "mem_gb": settings.mem_gb,
        "timeout_min": settings.timeout_min,
        "slurm_partition": settings.partition,
        "slurm_account": settings.account,
        "slurm_additional_parameters": dependency,
        # Since 22.05 srun does not inherit --cpus-per-task; and one lost rank should end the others.
        "slurm_srun_args": [f"--cpus-per-task={settings.cpus_per_task}", "--kill-on-bad-exit=1"],
    }


def _submit(job: Job, settings: SlurmSettings, name: str, parents: Sequence[str]) -> str:
    executor = submitit.AutoExecutor(fresh_folder(job.folder), cluster="slurm")
    executor.update_parameters(**parameters(settings, name, parents))
    try:
        with job_environment({"OMP_NUM_THREADS": str(settings.cpus_per_task)}):
            return str(executor.submit(job.function).job_id)
    except submitit.core.utils.FailedJobError as error:
        raise UserError(f"Slurm refuses {name}: {' '.join(str(error).split())}") from error
