"""Where tasks run: on this machine or on Slurm, one set of verbs for both."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

from sweeps.jobs.schedule import Job
from sweeps.local.executor import LocalExecutor
from sweeps.settings.schema import Cluster, SlurmSettings
from sweeps.slurm.executor import SlurmExecutor


class Executor(Protocol):
    """Takes a study's tasks and works on them, whether or not anybody stays to watch."""

    def check(self) -> None:
        """Raises ``UserError`` where it cannot work at all."""

    def gone(self, keys: Collection[str]) -> dict[str, str]:
        """Of tasks (run_id/task) that say they wait or run, those that nobody works on, and why."""

    def settle(self, jobs: Sequence[Job]) -> None:
        """Make the status true of every task among ``jobs`` that ended without a word."""

    def submit(self, jobs: Sequence[Job]) -> list[str]:
        """Put ``jobs`` in line, all or none; returns lines for people. Raises ``UserError``."""

    def is_active(self) -> bool:
        """Whether anything of the study is in line or under way."""

    def stop(self) -> str | None:
        """Ask all that is under way to save and leave; or say why that is not done when a watcher leaves."""

    def works_on(self, job: Job) -> bool:
        """Whether ``job`` is in line or under way."""

    def traces(self) -> str:
        """Where to look, and what to do, when work ended without a word."""

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Stop ``jobs``, which are marked as cancelled, wherever they are."""


def scripts(cluster: Cluster, study_dir: Path, todo: Sequence[Job]) -> list[str]:
    """What sbatch would get to do ``todo``; nothing where tasks run on this machine."""
    return SlurmExecutor(cluster, study_dir).scripts(todo) if isinstance(cluster, SlurmSettings) else []


def executor(cluster: Cluster, study_dir: Path) -> Executor:
    """The executor of the study in ``study_dir``."""
    if isinstance(cluster, SlurmSettings):
        return SlurmExecutor(cluster, study_dir)
    return LocalExecutor(study_dir)
