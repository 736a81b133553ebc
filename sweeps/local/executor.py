"""This machine as a place for tasks: a launcher's side of the queue that ``runner.py`` works off."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from nepa_scale.run_dir.lock import holder, is_in_use, is_in_use_by_another
from sweeps.jobs import jobs
from sweeps.jobs.schedule import Job
from sweeps.local import leases, runner
from sweeps.plan import plan

GONE = "its process is gone without a word; the same launch continues it"
STOP_AGAIN_SECONDS = 5.0


class LocalExecutor:
    """Tasks of the study in ``study_dir`` as processes of this machine."""

    def __init__(self, study_dir: Path) -> None:
        self._study_dir = study_dir
        self._asked_at = 0.0

    def check(self) -> None:
        """This machine is always there; raises ``UserError`` where queues cannot agree on it."""
        leases.check_folder()

    def gone(self, keys: Collection[str]) -> dict[str, str]:
        """Tasks whose process, or this machine, died without a word; none while a launcher puts tasks in line."""
        if self.is_active() or is_in_use_by_another(self._study_dir):
            return {}
        folders = {key: plan.task_dir(self._study_dir, key) for key in keys}
        return {key: GONE for key, folder in folders.items() if not is_in_use(folder)}

    def settle(self, todo: Sequence[Job]) -> None:
        """Tasks that say they wait or run and do not are to be done, from where they were."""
        waiting = {job.key: job for job in todo if jobs.state(job) in jobs.UNDER_WAY}
        for key in self.gone(waiting):
            jobs.settle(waiting[key], None, stopping=True)

    def submit(self, todo: Sequence[Job]) -> list[str]:
        """Put ``todo`` in line, and see that a queue works on it. What is under way is left alone."""
        joined = self.is_active()
        for job in todo:
            if not is_in_use(jobs.task_dir(job)):
                jobs.put_in_line(job)
        if todo:
            runner.start(self._study_dir)
        return ["the queue of an earlier launch is at work and takes these on"] if joined and todo else []

    def is_active(self) -> bool:
        """Whether the study's queue is there, or is about to be."""
        return runner.is_there(self._study_dir)

    def stop(self) -> str | None:
        """Tell the queue to let its tasks save; asking often does no harm."""
        if time.monotonic() - self._asked_at > STOP_AGAIN_SECONDS:
            self._asked_at = time.monotonic()
            _tell_to_stop(runner.queue_dir(self._study_dir))
        return None

    def works_on(self, job: Job) -> bool:
        """Whether a process holds the task; one in line and marked as cancelled is never started."""
        return is_in_use(jobs.task_dir(job))

    def traces(self) -> str:
        """Where the queue says what went wrong."""
        return f"the same command continues (log of the queue: {runner.log_file(self._study_dir)})"

    def cancel(self, chosen: Sequence[Job]) -> None:
        """The queue finds the marks by itself; what runs without one is told here."""
        if self.is_active():
            return
        for job in chosen:
            _tell_to_stop(jobs.task_dir(job))


def _tell_to_stop(folder: Path) -> None:
    """SIGTERM to the process that holds the lock of ``folder``, should it be one of this machine."""
    process = holder(folder)
    if process is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
