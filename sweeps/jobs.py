"""A task of a run as a job: what its process does, what is left to do, and keeping ``status.json`` true."""

from __future__ import annotations

import dataclasses
import functools
import signal
import sys
from pathlib import Path
from types import FrameType

from nepa_scale.runs import exclusive, is_finished
from nepa_scale.status import Status, read_status, write_status
from sweeps.plan import Plan, run_dir
from sweeps.schedule import Job


class TaskNotFinishedError(Exception):
    """The task ended before its end; raised so that submitit and Slurm know it too."""


def run_task(run_directory: str, task: str) -> None:
    """Train one task of one run in this process. Raises ``TaskNotFinishedError`` unless that ends well."""
    signal.signal(signal.SIGTERM, _leave)  # submitit ignores it; the trainer takes over once it can save
    from nepa_scale import train

    code = train.main([f"config={run_directory}/config.yaml", f"task={task}", f"run_dir={run_directory}"])
    task_dir = Path(run_directory) / task
    status = read_status(task_dir)
    if not is_finished(task_dir):
        raise TaskNotFinishedError(f"exit code {code}, state {status.state if status else 'none'}")


def jobs_to_do(plan: Plan, study_dir: Path) -> list[Job]:
    """A job for every unfinished task of the plan; fine-tuning waits for unfinished pre-training."""
    unfinished = {
        f"{run.run_id}/{task}": (run, task)
        for run in plan.runs
        for task in run.tasks
        if not is_finished(run_dir(study_dir, run.run_id) / task)
    }
    jobs = []
    for key, (run, task) in unfinished.items():
        directory = run_dir(study_dir, run.run_id).absolute()
        pretraining = f"{run.pretrained_by or run.run_id}/pretrain"
        if task == "pretrain" and run.branched_from is not None:
            pretraining = f"{run.branched_from}/pretrain"
        waits = run.init == "pretrain" and pretraining != key and pretraining in unfinished
        jobs.append(
            Job(
                key=key,
                function=functools.partial(run_task, str(directory), task),
                folder=directory / task / "submitit",
                after=(pretraining,) if waits else (),
                cost=run.tasks[task].flops - run.tasks[task].flops_inherited,
            )
        )
    return jobs


def selected(todo: list[Job], only: str) -> list[Job]:
    """The jobs of ``todo`` that ``only`` names: all, those that failed, or those missing for another reason.

    One that waits for a job that is not among them cannot start and is left out, too.
    """
    if only == "all":
        return todo
    failed = {job.key for job in todo if (status := read_status(task_dir(job))) and status.state == "failed"}
    chosen = {job.key: job for job in todo if (job.key in failed) == (only == "failed")}
    while orphans := [key for key, job in chosen.items() if any(parent not in chosen for parent in job.after)]:
        for key in orphans:  # whose own children are orphans in the next round
            del chosen[key]
    return list(chosen.values())


def check_unused(jobs: list[Job]) -> None:
    """Refuse to touch tasks that a process is working on. Raises ``RunError`` naming it."""
    for job in jobs:
        if task_dir(job).is_dir():
            with exclusive(task_dir(job)):
                pass


def task_dir(job: Job) -> Path:
    """The folder of the task that ``job`` does."""
    return job.folder.parent


def log_file(job: Job) -> Path:
    """What the last process of ``job`` printed, or where the task's log will be."""
    printed = sorted(job.folder.glob("*/*.err"), key=lambda path: int(path.parent.name))
    return printed[-1] if printed else task_dir(job) / "log.txt"


def mark(job: Job, state: str, error: str | None = None) -> None:
    """Set the state of the job's task; its step and attempts stay."""
    before = read_status(task_dir(job)) or Status(state)
    write_status(task_dir(job), dataclasses.replace(before, state=state, error=error))


def put_in_line(job: Job) -> None:
    """Say of a task about to wait in a queue how it stands: planned, or preempted where it had begun.

    Its last process may have died without a word, for example with the machine.
    """
    status = read_status(task_dir(job))
    if status is None or status.state == "failed":
        mark(job, "planned")
    settle(job, None, stopping=True)


def settle(job: Job, error: str | None, *, stopping: bool) -> Status:
    """Make the status of a task whose process is gone say what became of it, and return it."""
    status = read_status(task_dir(job)) or Status("planned")
    if status.state in ("submitted", "running"):
        if stopping:
            mark(job, "preempted" if status.step else "planned")
        else:
            mark(job, "failed", printed_error(job) or error or "ended before its end")
    return read_status(task_dir(job)) or status


def printed_error(job: Job) -> str | None:
    """The first ``error:`` line that the last process of ``job`` printed."""
    path = log_file(job)
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    return next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), None)


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)
