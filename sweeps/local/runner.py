"""A study's queue as a process of its own: ``python -m sweeps.local.runner STUDY_DIR``, and the launcher's side of it.

The process belongs to no terminal and outlives the launcher that started it. It reads what to do from the study's
files: every task of the plan whose status is ``submitted``. A launcher that adds tasks touches the file ``inbox``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from nepa_scale.distributed.processes import descends
from nepa_scale.distributed.signals import StopRequest
from nepa_scale.run_dir.status import exclusive, holder, is_in_use, is_in_use_by_another, record_holder
from nepa_scale.utils.errors import RunError
from sweeps.jobs import jobs
from sweeps.jobs.jobs import Job
from sweeps.jobs.task import environment_of_job
from sweeps.local import leases
from sweeps.local.processes import LEAVE_SECONDS, fork_server
from sweeps.local.queue import LocalQueue
from sweeps.plan import plan
from sweeps.plan.machine import local_slots
from sweeps.plan.plan import read_cluster
from sweeps.settings.schema import LocalSettings

GONE = "its process is gone without a word; the same launch continues it"
HANDOVER_SECONDS = LEAVE_SECONDS + 3.0
STOP_AGAIN_SECONDS = 5.0


class LocalExecutor:
    """Runs the tasks of the study in ``study_dir`` on this machine, by the queue's process."""

    def __init__(self, study_dir: Path) -> None:
        self._study_dir = study_dir
        self._asked_at = 0.0

    def check(self) -> None:
        """Raises ``UserError`` where queues cannot keep their leases of devices."""
        leases.check_folder()

    def gone(self, keys: Collection[str]) -> dict[str, str]:
        """{run_id/task: reason} of ``keys`` whose process died without a word; none while a launcher is submitting."""
        if self.is_active() or is_in_use_by_another(self._study_dir):
            return {}
        folders = {key: plan.task_dir(self._study_dir, key) for key in keys}
        return {key: GONE for key, folder in folders.items() if not is_in_use(folder)}

    def settle(self, todo: Sequence[Job]) -> None:
        """Mark tasks that say submitted or running, and are not, as planned or preempted."""
        waiting = {job.key: job for job in todo if jobs.state(job) in jobs.UNDER_WAY}
        for key in self.gone(waiting):
            jobs.settle(waiting[key], None, stopping=True)

    def submit(self, todo: Sequence[Job]) -> list[str]:
        """Submit ``todo`` to a queue that runs, or start it; returns lines to print. Running tasks are left alone."""
        joined = self.is_active()
        for job in todo:
            if not is_in_use(jobs.task_dir(job)):
                jobs.put_in_line(job)
        if todo:
            start(self._study_dir)
        return ["the queue of an earlier launch is at work and takes these on"] if joined and todo else []

    def is_active(self) -> bool:
        """Whether a runner has the study's queue, or has just been started."""
        return is_in_use(queue_dir(self._study_dir)) or holder(newcomer_dir(self._study_dir)) is not None

    def held_up(self) -> str | None:
        """That nothing runs because tasks of other studies hold the devices, in one line; None where that is not so."""
        queue = holder(queue_dir(self._study_dir))
        held = leases.Leases().in_the_way_of(queue.pid) if queue is not None else None
        if queue is None or held is None or any(descends(lease.pid, queue.pid) for lease in held):
            return None
        return leases.waiting_line(held)

    def stop(self) -> str | None:
        """Tell the queue to let its tasks save and to end; sent again at most every few seconds."""
        if time.monotonic() - self._asked_at > STOP_AGAIN_SECONDS:
            self._asked_at = time.monotonic()
            _tell_to_stop(queue_dir(self._study_dir))
        return None

    def works_on(self, job: Job) -> bool:
        """Whether a process does the task. A waiting task is not counted: a cancelled one is never started."""
        return is_in_use(jobs.task_dir(job))

    def traces(self) -> str:
        """Where the queue writes errors."""
        return f"the same command continues (log of the queue: {log_file(self._study_dir)})"

    def cancel(self, chosen: Sequence[Job]) -> None:
        """Stop running tasks; where a queue is running, it sees the cancel markers itself."""
        if self.is_active():
            return
        for job in chosen:
            _tell_to_stop(jobs.task_dir(job))


def _tell_to_stop(folder: Path) -> None:
    """Send SIGTERM to the process that holds the lock of ``folder``, if it runs on this machine."""
    process = holder(folder)
    if process is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)


def queue_dir(study_dir: Path) -> Path:
    """Where the queue of a study keeps its lock, inbox and log."""
    return study_dir / "queue"


def inbox(study_dir: Path) -> Path:
    """The file whose modification time tells when tasks were last added."""
    return queue_dir(study_dir) / "inbox"


def log_file(study_dir: Path) -> Path:
    """The output of the queue's process: empty unless something is wrong."""
    return queue_dir(study_dir) / "log.txt"


def newcomer_dir(study_dir: Path) -> Path:
    """The folder whose lock names the runner that was started last, before that runner has the queue's lock."""
    return queue_dir(study_dir) / "newcomer"


def start(study_dir: Path) -> None:
    """Start a runner. If there is one already, that one takes on the new tasks, and the new runner ends."""
    newcomer_dir(study_dir).mkdir(parents=True, exist_ok=True)
    inbox(study_dir).touch()
    with log_file(study_dir).open("a", encoding="utf-8") as log:
        runner = subprocess.Popen(
            [sys.executable, "-m", "sweeps.local.runner", str(study_dir.absolute())],
            env=environment_of_job({}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    record_holder(newcomer_dir(study_dir), runner.pid)


def main(arguments: Sequence[str]) -> int:
    """Run the queue of the study directory in ``arguments``; returns the exit code."""
    stop = StopRequest()
    study_dir = Path(arguments[0])
    deadline = time.monotonic() + HANDOVER_SECONDS
    while True:
        try:
            with exclusive(queue_dir(study_dir)):
                _run(study_dir, stop)
            return 0
        except RunError:  # another runner has the queue and will see the inbox, unless it is about to end
            if time.monotonic() > deadline:
                return 0
            time.sleep(0.1)


def _run(study_dir: Path, stop: StopRequest) -> None:
    cluster = read_cluster(study_dir)
    if not isinstance(cluster, LocalSettings):
        raise TypeError(f"{study_dir}: its tasks do not run on this machine")
    slots = local_slots(cluster)
    with fork_server(slots) as server:
        LocalQueue(slots, StudyTasks(study_dir), lambda: stop.requested, server=server).run()
    if stop.requested:
        planned = plan.load(study_dir)
        for job in jobs.jobs_to_do(planned, study_dir) if planned else []:
            jobs.settle(job, None, stopping=True)


class StudyTasks:
    """Finds the submitted tasks of a study and keeps every ``status.json`` up to date."""

    def __init__(self, study_dir: Path) -> None:
        self._study_dir, self._inbox = study_dir, inbox(study_dir)
        self._read_at = -1

    def arriving(self, present: Collection[str]) -> Sequence[Job]:
        """The submitted tasks, where some were added since the last call; without those that wait for a task which is
        neither among them nor ``present``: nobody here would do that one."""
        written_at = self._inbox.stat().st_mtime_ns
        if written_at == self._read_at:
            return []
        self._read_at = written_at
        planned = plan.load(self._study_dir)
        todo = jobs.jobs_to_do(planned, self._study_dir) if planned else []
        return jobs.without_orphans((job for job in todo if jobs.state(job) == "submitted"), present)

    def ended(self, job: Job, error: str | None, *, stopping: bool) -> bool:
        """Decide by the task's own status, as the end of a process does not say whether the task is finished."""
        return jobs.settle(job, error, stopping=stopping).state == "finished"

    def skipped(self, job: Job, parent: str) -> None:
        """Mark a task as failed because its parent failed."""
        jobs.end(job, jobs.not_started(parent))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
