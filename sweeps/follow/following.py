"""Watching a study's tasks from outside: what they write about themselves, shown as it happens."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rich.console import Console

from nepa_scale.distributed.signals import StopRequest
from nepa_scale.run_dir import lock
from nepa_scale.run_dir.status import Status, read_status, status_path
from sweeps.follow.display import Progressing
from sweeps.follow.executors import Executor
from sweeps.jobs import jobs
from sweeps.jobs.schedule import Job
from sweeps.slurm.commands import SchedulerUnavailableError

POLL_SECONDS = 0.3
SETTLE_SECONDS = 10.0
FINAL = ("finished", "failed")


class Follower:
    """Shows how ``followed`` get on. ``titles``: {job key: name to show}."""

    def __init__(self, followed: Sequence[Job], titles: Mapping[str, str], console: Console) -> None:
        self._open = {job.key: job for job in followed}
        self._titles, self._seen = titles, dict[str, int]()
        self._started: set[str] = set()
        self._settled_at, self._answered = 0.0, True
        self._progress = Progressing(console, len(followed))
        self.failures: list[tuple[Job, str]] = []

    def follow(self, executor: Executor, stop: StopRequest) -> bool:
        """Watch until all is done, or nobody works on it any more; returns whether a signal cut it short.

        On an executor whose work goes on without the watcher, the signal ends the watching only.
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
        """Whether anything is at work; what tasks and executor say of themselves is shown.

        An executor that does not answer is asked again: its work goes on meanwhile.
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
        return active

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
    """Seconds since the process that trains began, its start-up included; 0 where that is not known."""
    process = lock.last_holder(jobs.task_dir(job))
    return max(0.0, time.time() - process.started) if process is not None and process.started else 0.0


def _written_at(job: Job) -> int | None:
    try:
        return status_path(jobs.task_dir(job)).stat().st_mtime_ns
    except FileNotFoundError:
        return None
