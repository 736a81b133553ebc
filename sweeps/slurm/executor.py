"""Runs tasks on a Slurm cluster through submitit, as arrays and packs that are submitted all or none; and what sbatch
gets of each: its parameters and its script."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.slurm.slurm import _make_sbatch_string

from nepa_scale.run_dir.status import is_in_use_by_another, read_status
from nepa_scale.utils.errors import UserError
from sweeps.jobs import jobs
from sweeps.jobs.jobs import Job
from sweeps.jobs.task import is_cancelled, job_environment
from sweeps.plan.plan import task_dir
from sweeps.settings.sbatch_options import gpus_in_gres, sbatch_options
from sweeps.settings.schema import SlurmSettings
from sweeps.slurm import inside_job, job_states
from sweeps.slurm.arranging import Array, Element, Pack, arranged
from sweeps.slurm.job_states import (
    FOLDER,
    JobState,
    SchedulerUnavailableError,
    Submission,
    begin_submission,
    next_submission,
    printed_errors,
    record_job_id,
    submission_comment,
    submission_folder,
)

ASK_AGAIN_SECONDS = 5.0
CONFIGURATION = "SLURM_CONF"
UNKNOWN = "it never reached Slurm; the same launch submits it"
#: Dependencies on a job that is to end well, and on one that is to end.
AFTER_OK, AFTER_ANY = "afterok:", "afterany:"


class SlurmExecutor:
    """Runs the tasks of the study in ``study_dir`` as jobs of Slurm."""

    def __init__(self, settings: SlurmSettings, study_dir: Path) -> None:
        self._settings, self._study_dir = settings, study_dir
        self._asked_at, self._states = -ASK_AGAIN_SECONDS, dict[str, JobState]()

    def check(self) -> None:
        """Raises ``UserError`` where Slurm's commands are missing."""
        job_states.check_available()

    def gone(self, keys: Collection[str]) -> dict[str, str]:
        """{run_id/task: reason} of ``keys`` without a live job in Slurm; none while a launcher is submitting tasks."""
        if not keys or is_in_use_by_another(self._study_dir):
            return {}
        known = self._known(fresh=True)
        dead = [key for key in keys if key not in known or not known[key].is_live]
        return {key: self._reason(known[key]) if key in known else UNKNOWN for key in dead}

    def settle(self, todo: Sequence[Job]) -> None:
        """Mark tasks that say they wait or run, and have no such job in Slurm, as failed for Slurm's reason."""
        waiting = {job.key: job for job in todo if jobs.state(job) in (*jobs.UNDER_WAY, "preempted")}
        for key, reason in self.gone(waiting).items():
            if reason != UNKNOWN:
                jobs.end(waiting[key], reason)
            elif jobs.state(waiting[key]) != "preempted":
                jobs.settle(waiting[key], None, stopping=True)

    def submit(self, todo: Sequence[Job]) -> list[str]:
        """Submit the tasks that have no job yet. Raises ``UserError`` with Slurm's message; then all are cancelled."""
        live = self._dependencies()
        new = [job for job in todo if job.key not in live]
        planned = arranged(new, live, job_states.max_array_size()) if new else []
        ids: dict[int, str] = {}
        try:
            for unit in planned:
                ids[id(unit)] = self._submit(unit, ids)
        except BaseException:
            job_states.cancel(list(ids.values()))
            for job in new:
                jobs.settle(job, None, stopping=True)
            raise
        lines = [f"job {ids[id(unit)]}  {title(unit)}" for unit in planned]
        lines += [f"{len(new)} tasks submitted to Slurm as {len(planned)} jobs and arrays"] if new else []
        return [*lines, *([f"{len(todo) - len(new)} tasks are there already"] if len(new) < len(todo) else [])]

    def scripts(self, todo: Sequence[Job]) -> list[str]:
        """The scripts that ``submit`` would give to sbatch, except for job ids, which are not known yet.

        In their place a script has the name of the submission that it waits for, such as JOB_1. If Slurm does not
        answer, it is taken to have no jobs.
        """
        live, size = dict[str, str](), job_states.DEFAULT_MAX_ARRAY_SIZE
        with contextlib.suppress(SchedulerUnavailableError):
            live = self._dependencies()
            size = job_states.max_array_size()
        planned = arranged([job for job in todo if job.key not in live], live, size)
        texts, ids = list[str](), dict[int, str]()
        for number, unit in enumerate(planned, next_submission(self._study_dir)):
            ids[id(unit)] = f"JOB_{number}"
            submission = Submission(number, submission_comment(self._study_dir, number), ())
            folder = submission_folder(self._study_dir, submission)
            text = _make_sbatch_string(
                command=f"{python_command(self._settings)} -u -m submitit.core._submit {shlex.quote(str(folder))}",
                folder=folder,
                map_count=len(unit.jobs) if isinstance(unit, Array) and len(unit.jobs) > 1 else None,
                **parameters(self._settings, unit, submission.comment, dependency_of(unit, ids)),
            )
            texts.append(text)
        return texts

    def is_active(self) -> bool:
        """Whether Slurm has a job of the study that waits or runs; asked every few seconds at most."""
        return any(state.is_live for state in self._known().values())

    def held_up(self) -> str | None:
        """None: squeue shows why a job waits."""
        return None

    def stop(self) -> str | None:
        """Leave the jobs in Slurm, as they do not depend on a watcher."""
        return "the jobs go on in Slurm"

    def works_on(self, job: Job) -> bool:
        """Whether Slurm has a job for the task that waits or runs, and will do it."""
        state = self._known().get(job.key)
        return state is not None and self._will_do(job.key, state)

    def traces(self) -> str:
        """Where the jobs write their logs."""
        return f"the same command submits them again (logs: {self._study_dir / FOLDER})"

    def cancel(self, chosen: Sequence[Job]) -> None:
        """Cancel the jobs of ``chosen``; Slurm cancels what waits for them.

        A job that has other tasks to do goes on: the queue in it sees the cancel markers itself.
        """
        known = self._known(fresh=True)
        keys = {job.key for job in chosen}
        needed = {state.job_id for key, state in known.items() if key not in keys and self._will_do(key, state)}
        live = {known[key].job_id for key in keys & known.keys() if known[key].is_live}
        job_states.cancel(sorted(live - needed))

    def _dependencies(self) -> dict[str, str]:
        """{task that Slurm has a job for: the dependency on that job}."""
        return {
            key: f"{AFTER_ANY if state.packed else AFTER_OK}{state.job_id}"
            for key, state in self._known(fresh=True).items()
            if self._will_do(key, state)
        }

    def _will_do(self, key: str, state: JobState) -> bool:
        """Whether the job waits or runs; and if it has several tasks, whether this one has not ended yet."""
        if not (state.is_live and state.packed):
            return state.is_live
        folder = task_dir(self._study_dir, key)
        status = read_status(folder)
        if status is None or status.state not in (*jobs.UNDER_WAY, "preempted"):
            return False
        return not (status.state == "submitted" and is_cancelled(folder))

    def _known(self, *, fresh: bool = False) -> dict[str, JobState]:
        """The states of the study's jobs, a few seconds old at most; ``fresh``: of this moment."""
        if fresh or time.monotonic() - self._asked_at > ASK_AGAIN_SECONDS:
            # Before the call, so that a Slurm that does not answer is not asked at once again.
            self._asked_at = time.monotonic()
            self._states = job_states.states(self._study_dir)
        return self._states

    def _reason(self, state: JobState) -> str:
        """Why the task of an ended job is not finished: the error that it printed, else Slurm's reason."""
        printed = printed_errors(self._study_dir, state.job_id)
        return jobs.first_error(printed) or job_states.failure_reason(state, printed)

    def _submit(self, unit: Array | Pack, ids: dict[int, str]) -> str:
        """Hand one array or pack to sbatch; returns its job id."""
        packed = isinstance(unit, Pack)
        submission = begin_submission(self._study_dir, [job.key for job in unit.jobs], packed=packed)
        for job in unit.jobs:
            jobs.put_in_line(job)
        python = python_command(self._settings)
        executor = submitit.SlurmExecutor(submission_folder(self._study_dir, submission), python=python)
        dependency = dependency_of(unit, ids)
        executor.update_parameters(**parameters(self._settings, unit, submission.comment, dependency))
        variables = {"OMP_NUM_THREADS": str(unit.resources.cpus_per_task)}
        if CONFIGURATION in os.environ:  # of this process, not of a job that it may run in
            variables[CONFIGURATION] = os.environ[CONFIGURATION]
        try:
            with job_environment(variables), executor.batch():
                handles = [executor.submit(each) for each in self._functions(unit, submission.number, dependency or "")]
        except submitit.core.utils.FailedJobError as error:
            raise UserError(f"Slurm refuses {title(unit)}: {_sbatch_error(error)}") from error
        job_id = str(handles[0].job_id).partition("_")[0]
        record_job_id(self._study_dir, submission, job_id)
        self._asked_at = -ASK_AGAIN_SECONDS
        return job_id

    def _functions(self, unit: Array | Pack, submission: int, dependency: str) -> list[Callable[[], None]]:
        """What each job of Slurm does."""
        most = self._settings.max_requeues
        if isinstance(unit, Pack):
            return [inside_job.doing(unit, self._study_dir, submission, most)]
        needs_parent = dependency.startswith(AFTER_ANY)
        return [inside_job.requeueing(job, most, needs_parent=needs_parent) for job in unit.jobs]


def _sbatch_error(error: Exception) -> str:
    """sbatch's error message, taken from submitit's report of the failed command."""
    lines = [line for line in str(error).splitlines() if "sbatch: error:" in line]
    return " ".join(" ".join(lines or [str(error)]).split())


def parameters(settings: SlurmSettings, unit: Array | Pack, comment: str, dependency: str | None) -> dict[str, Any]:
    """The parameters of one array or pack for submitit, which are options of sbatch."""
    asked, options = unit.resources, sbatch_options(settings)
    extra: dict[str, Any] = {**options, "requeue": True}
    if dependency is not None:
        # Without kill-on-invalid-dep a job whose parent failed would stay pending for ever.
        extra |= {"dependency": dependency, "kill-on-invalid-dep": "yes"}
    typed_gpus = gpus_in_gres(str(options.get("gres", ""))) is not None
    if typed_gpus:  # of a whole node, of which a task may have a part
        extra["gres"] = re.sub(r"\b(gpu(?::[^,:]+)?):\d+(?=,|$)", rf"\1:{asked.gpus_per_node}", str(options["gres"]))
    return {
        "job_name": title(unit),
        "comment": comment,
        "partition": settings.partition,
        "account": settings.account,
        "nodes": asked.nodes,
        "ntasks_per_node": asked.tasks_per_node,
        "gpus_per_node": None if typed_gpus else asked.gpus_per_node or None,
        "cpus_per_task": asked.cpus_per_task,
        # Each part of a node is rounded up; together they are no more than the node's.
        "mem": None if asked.mem_gb is None else f"{min(asked.mem_gb, settings.mem_gb or asked.mem_gb)}GB",
        "time": min(asked.timeout_min or settings.timeout_min, settings.timeout_min),
        "signal_delay_s": settings.save_seconds,
        "array_parallelism": settings.array_parallelism or len(unit.jobs),
        "additional_parameters": extra,
        "setup": [*_shared_by(unit), *setup_lines(settings)] or None,
        # Since 22.05 srun does not inherit --cpus-per-task; and one lost rank should end the others.
        "srun_args": [f"--cpus-per-task={asked.cpus_per_task}", "--kill-on-bad-exit=1", *settings.srun_args],
    }


def _shared_by(unit: Array | Pack) -> list[str]:
    """Comments in the script of a pack that name its tasks."""
    if isinstance(unit, Array):
        return []
    return [f"# {len(unit.jobs)} tasks share this job, {unit.width} at once:", *(f"#   {job.key}" for job in unit.jobs)]


def setup_lines(settings: SlurmSettings) -> list[str]:
    """The lines before srun: the variables, and the commands of ``cluster.setup``, each checked for its exit code.

    A trap prints which command failed, even where it ends the shell, as under ``set -e``.
    """
    lines = [f"export {name}={shlex.quote(str(value))}" for name, value in settings.env.items()]
    if not settings.setup:
        return lines
    failed = 'echo "error: cluster.setup: exit code $?: $SETUP_COMMAND" >&2'
    lines.append(f"trap {shlex.quote(failed)} EXIT")
    for command in settings.setup:
        lines += [f"SETUP_COMMAND={shlex.quote(' '.join(command.split()))}", command, "(exit $?) || exit $?"]
    return [*lines, "trap - EXIT"]


def python_command(settings: SlurmSettings) -> str:
    """The command that starts Python in a job: ``cluster.python``, such as that of a container, or this Python."""
    return shlex.quote(sys.executable) if settings.python is None else settings.python


def dependency_of(unit: Array | Pack, ids: Mapping[int, str]) -> str | None:
    """The dependency of an array or pack: on one job for all its jobs, or of each on its own in an array of the same
    length. What waits for a pack starts however that ends, as each task in it ends for itself.

    ``ids``: {id() of an array or pack: its job id in Slurm}.
    """
    if isinstance(unit, Array) and unit.parent is not None:
        return f"{'afterok' if len(unit.jobs) == 1 else 'aftercorr'}:{ids[id(unit.parent)]}"
    match unit.live_parent:
        case Pack() as pack:
            return f"{AFTER_ANY}{ids[id(pack)]}"
        case Element(array, index):
            return f"{AFTER_OK}{ids[id(array)]}{f'_{index}' if len(array.jobs) > 1 else ''}"
        case live:
            return live


def title(unit: Array | Pack) -> str:
    """The name of an array or pack in messages and in Slurm."""
    first, count = unit.jobs[0].key, len(unit.jobs)
    if count == 1:
        return first
    return f"{count} tasks on one node" if isinstance(unit, Pack) else f"{first.rpartition('/')[2]} of {count} runs"
