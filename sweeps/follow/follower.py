"""Follows a study's tasks to their end, wherever they run: one interface for this machine and Slurm."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from nepa_scale.distributed.signals import StopRequest, handle
from nepa_scale.run_dir.status import Status, last_holder, read_status, status_path
from sweeps.follow import display
from sweeps.follow.display import Progressing, accuracy_table, outcomes
from sweeps.jobs import jobs
from sweeps.jobs.jobs import Job
from sweeps.local.runner import LocalExecutor
from sweeps.plan.plan import Plan
from sweeps.settings.schema import Cluster, SlurmSettings
from sweeps.slurm.executor import SlurmExecutor
from sweeps.slurm.job_states import SchedulerUnavailableError

EXIT_FAILURE = 1
POLL_SECONDS = 0.3
SETTLE_SECONDS = 10.0
HELD_UP_SECONDS = 3.0
"""How long nothing of a study must have run until its launcher says why."""
FINAL = ("finished", "failed")

Executor = LocalExecutor | SlurmExecutor
"""Runs the tasks of a study, whether or not a launcher watches."""


def scripts(cluster: Cluster, study_dir: Path, todo: Sequence[Job]) -> list[str]:
    """The scripts that sbatch would get for ``todo``; none where tasks run on this machine."""
    return SlurmExecutor(cluster, study_dir).scripts(todo) if isinstance(cluster, SlurmSettings) else []


def executor(cluster: Cluster, study_dir: Path) -> Executor:
    """The executor of the study in ``study_dir``."""
    if isinstance(cluster, SlurmSettings):
        return SlurmExecutor(cluster, study_dir)
    return LocalExecutor(study_dir)


def see_through(executor: Executor, planned: Plan, study_dir: Path, todo: Sequence[Job], *, watch: bool) -> int:
    """Watch ``todo`` to the end, or print how to; returns the exit code: 1 where a task is not finished."""
    if not watch:
        print(f"`nepa-status {study_dir}` shows how far they are, `nepa-cancel` stops them")
        return 0
    stop = StopRequest()
    handle(signal.SIGHUP, signal.SIG_DFL)  # a closed terminal ends the watching, not the tasks
    console = display.make_console()
    follower = Follower(todo, planned.titles, console)
    stopped = follower.follow(executor, stop)
    console.print(display.results_table(planned, study_dir))
    if finished := outcomes(planned, study_dir):
        console.print("", accuracy_table(finished), sep="\n")
    rows = [(planned.titles[job.key], error, jobs.log_file(job)) for job, error in follower.failures]
    for line in display.failure_lines(rows):
        print(line)
    unfinished = [job for job in todo if not jobs.is_done(job)]
    if stopped:
        print(executor.stop() or "stopped: what ran is saved; the same command continues")
    elif len(unfinished) > len(rows):
        print(f"{len(unfinished) - len(rows)} tasks are not finished and nobody works on them; {executor.traces()}")
    return EXIT_FAILURE if unfinished else 0


class Follower:
    """Shows the progress of ``followed``. ``titles``: {job key: name to show}."""

    def __init__(self, followed: Sequence[Job], titles: Mapping[str, str], console: Console) -> None:
        self._open = {job.key: job for job in followed}
        self._titles, self._seen = titles, dict[str, int]()
        self._started: set[str] = set()
        self._settled_at, self._answered = 0.0, True
        self._held_up_since, self._said_why = time.monotonic(), False
        self._progress = Progressing(console, len(followed))
        self.failures: list[tuple[Job, str]] = []

    def follow(self, executor: Executor, stop: StopRequest) -> bool:
        """Watch until all is done or nothing works on it any more; returns whether a signal ended it earlier.

        Where tasks go on without the watcher, the signal ends the watching only.
        """
        self._settled_at = time.monotonic()
        try:
            while self._open:
                active = self._ask(executor)
                if not active or (stop.requested and executor.stop() is not None):
                    break
                time.sleep(POLL_SECONDS)
        finally:
            self._progress.close()
        return stop.requested

    def _ask(self, executor: Executor) -> bool:
        """Show the status of the tasks; returns whether any waits or runs.

        A scheduler that does not answer is asked again, as the tasks go on meanwhile.
        """
        try:
            active = executor.is_active()
            self._look()
            if not active or time.monotonic() - self._settled_at > SETTLE_SECONDS:
                self._settled_at = time.monotonic()
                executor.settle(list(self._open.values()))
                self._look()
        except SchedulerUnavailableError as error:
            if self._answered:
                self._progress.say(f"{error}; the work goes on, asking again")
            self._answered = False
            self._look()
            return True
        self._answered = True
        self._say_what_holds_up(executor)
        return active

    def _say_what_holds_up(self, executor: Executor) -> None:
        """Say once for each time in which no task can begin why that is."""
        reason = None if self._started else executor.held_up()
        if reason is None:
            self._held_up_since, self._said_why = time.monotonic(), False
        elif not self._said_why and time.monotonic() - self._held_up_since > HELD_UP_SECONDS:
            self._said_why = True
            self._progress.say(reason)

    def _look(self) -> None:
        for key, job in list(self._open.items()):
            written_at = _written_at(job)
            if written_at is not None and self._seen.get(key) != written_at:
                self._seen[key] = written_at
                status = read_status(jobs.task_dir(job))
                if status is not None:
                    self._show(job, status)

    def _show(self, job: Job, status: Status) -> None:
        title = self._titles[job.key]
        if status.state == "running":
            if job.key not in self._started:
                self._started.add(job.key)
                self._progress.start(title, age=_age(job))
            self._progress.step(title, status)
        elif status.state in FINAL or (status.state in ("preempted", "planned") and job.key in self._started):
            self._started.discard(job.key)
            if status.state in FINAL:
                del self._open[job.key]
            if status.state == "failed":
                self.failures.append((job, status.error or "no reason recorded"))
            self._progress.end(title, status, f": {status.error}" if status.error else "")


def _age(job: Job) -> float:
    """Seconds since the training process started; 0 where that is not known."""
    process = last_holder(jobs.task_dir(job))
    return max(0.0, time.time() - process.started) if process is not None and process.started else 0.0


def _written_at(job: Job) -> int | None:
    try:
        return status_path(jobs.task_dir(job)).stat().st_mtime_ns
    except FileNotFoundError:
        return None
