"""Runs tasks on a Slurm cluster through submitit, as arrays and packs that are submitted all or none."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import submitit

from nepa_scale.run_dir.lock import is_in_use_by_another
from nepa_scale.run_dir.status import read_status
from nepa_scale.utils.errors import UserError
from sweeps.jobs import jobs
from sweeps.jobs.jobs import Job
from sweeps.jobs.task import is_cancelled, job_environment
from sweeps.plan.plan import task_dir
from sweeps.settings.schema import SlurmSettings
from sweeps.slurm import commands, job_states, packed_job, requeue, sbatch
from sweeps.slurm.arranging import Array, Pack, arranged
from sweeps.slurm.commands import JobState, SchedulerUnavailableError
from sweeps.slurm.job_states import FOLDER, begin_submission, printed_errors, record_job_id, submission_folder
from sweeps.slurm.sbatch import AFTER_ANY, AFTER_OK

ASK_AGAIN_SECONDS = 5.0
CONFIGURATION = "SLURM_CONF"
UNKNOWN = "it never reached Slurm; the same launch submits it"


class SlurmExecutor:
    """Runs the tasks of the study in ``study_dir`` as jobs of Slurm."""

    def __init__(self, settings: SlurmSettings, study_dir: Path) -> None:
        self._settings, self._study_dir = settings, study_dir
        self._asked_at, self._states = -ASK_AGAIN_SECONDS, dict[str, JobState]()

    def check(self) -> None:
        """Raises ``UserError`` where Slurm's commands are missing."""
        commands.check_available()

    def gone(self, keys: Collection[str]) -> dict[str, str]:
        """Tasks without a job that waits or runs in Slurm; none while a launcher is submitting tasks."""
        if is_in_use_by_another(self._study_dir):
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
        planned = arranged(new, live, commands.max_array_size()) if new else []
        ids: dict[int, str] = {}
        try:
            for unit in planned:
                ids[id(unit)] = self._submit(unit, ids)
        except BaseException:
            commands.cancel(list(ids.values()))
            for job in new:
                jobs.settle(job, None, stopping=True)
            raise
        lines = [f"job {ids[id(unit)]}  {sbatch.title(unit)}" for unit in planned]
        lines += [f"{len(new)} tasks submitted to Slurm as {len(planned)} jobs and arrays"] if new else []
        return [*lines, *([f"{len(todo) - len(new)} tasks are there already"] if len(new) < len(todo) else [])]

    def scripts(self, todo: Sequence[Job]) -> list[str]:
        """The scripts that ``submit`` would give to sbatch. If Slurm does not answer, it is taken to have no jobs."""
        live, size = dict[str, str](), commands.DEFAULT_MAX_ARRAY_SIZE
        with contextlib.suppress(SchedulerUnavailableError, FileNotFoundError):
            live = self._dependencies()
            size = commands.max_array_size()
        planned = arranged([job for job in todo if job.key not in live], live, size)
        return sbatch.scripts(self._settings, self._study_dir, planned)

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
        commands.cancel(sorted(live - needed))

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
            self._asked_at = (
                time.monotonic()
            )  # before the call, so that a Slurm that does not answer is not asked at once again
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
        python = sbatch.python_command(self._settings)
        executor = submitit.SlurmExecutor(submission_folder(self._study_dir, submission), python=python)
        dependency = sbatch.dependency_of(unit, ids)
        executor.update_parameters(**sbatch.parameters(self._settings, unit, submission.comment, dependency))
        variables = {"OMP_NUM_THREADS": str(unit.resources.cpus_per_task)}
        if CONFIGURATION in os.environ:  # of this process, not of a job that it may run in
            variables[CONFIGURATION] = os.environ[CONFIGURATION]
        try:
            with job_environment(variables), executor.batch():
                handles = [executor.submit(each) for each in self._functions(unit, submission.number, dependency or "")]
        except submitit.core.utils.FailedJobError as error:
            raise UserError(f"Slurm refuses {sbatch.title(unit)}: {_sbatch_error(error)}") from error
        job_id = str(handles[0].job_id).partition("_")[0]
        record_job_id(self._study_dir, submission, job_id)
        self._asked_at = -ASK_AGAIN_SECONDS
        return job_id

    def _functions(self, unit: Array | Pack, submission: int, dependency: str) -> list[Callable[[], None]]:
        """What each job of Slurm does."""
        most = self._settings.max_requeues
        if isinstance(unit, Pack):
            return [packed_job.doing(unit, self._study_dir, submission, most)]
        needs_parent = dependency.startswith(AFTER_ANY)
        return [requeue.requeueing(job, most, needs_parent=needs_parent) for job in unit.jobs]


def _sbatch_error(error: Exception) -> str:
    """sbatch's error message, taken from submitit's report of the failed command."""
    lines = [line for line in str(error).splitlines() if "sbatch: error:" in line]
    return " ".join(" ".join(lines or [str(error)]).split())
