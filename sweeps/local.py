"""A study on this machine: the queue runs the tasks, their status stays true, and a person sees it all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console

from nepa_scale.processes.signals import StopRequest
from nepa_scale.status import Status, read_status
from sweeps import jobs
from sweeps.display import Progressing
from sweeps.executors import LocalQueue
from sweeps.machine import Slots
from sweeps.schedule import Job


class TaskWatcher:
    """Keeps every ``status.json`` true and shows what happens. ``titles``: {job key: name to show}."""

    def __init__(self, progress: Progressing, titles: Mapping[str, str]) -> None:
        self._progress, self._titles = progress, titles
        self.failures: list[tuple[Job, str]] = []

    def starting(self, job: Job) -> None:
        """Note that the task is handed over."""
        jobs.mark(job, "submitted")
        self._progress.start(self._titles[job.key])

    def ended(self, job: Job, error: str | None, *, stopping: bool) -> bool:
        """Judge by what the task wrote about itself; the end of a process alone says little."""
        status = jobs.settle(job, error, stopping=stopping)
        self._end(job, status)
        return status.state == "finished"

    def skipped(self, job: Job, parent: str) -> None:
        """A task whose parent failed has failed too."""
        error = f"not started: {parent.rpartition('/')[2]} failed"
        jobs.mark(job, "failed", error)
        self._end(job, Status("failed", error=error))

    def tick(self, running: Sequence[Job]) -> None:
        """Show the steps of the running tasks."""
        for job in running:
            self._progress.step(self._titles[job.key], read_status(jobs.task_dir(job)))

    def _end(self, job: Job, status: Status) -> None:
        if status.state == "failed":
            self.failures.append((job, status.error or "no reason recorded"))
        self._progress.end(self._titles[job.key], status, f": {status.error}" if status.error else "")


def run_local(
    todo: Sequence[Job], titles: Mapping[str, str], slots: Slots, console: Console
) -> tuple[list[tuple[Job, str]], bool]:
    """Run ``todo`` to the end; returns the failures with their errors, and whether a signal cut it short."""
    stop = StopRequest()
    progress = Progressing(console, len(todo))
    watcher = TaskWatcher(progress, titles)
    try:
        LocalQueue(slots, watcher, lambda: stop.requested).run(todo)
    finally:
        progress.close()
    return watcher.failures, stop.requested
