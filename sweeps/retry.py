"""Take up tasks again, cancelled ones too: ``python sweeps/retry.py STUDY_DIR [run=PATTERN] [task=NAME]``."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from pathlib import Path

if __name__ == "__main__":
    # Run as a script, Python imports from this file's folder; import from the checkout it belongs to instead.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from nepa_scale.run_dir.status import exclusive, read_status
from nepa_scale.utils.arguments import grammar
from nepa_scale.utils.cli import command
from sweeps.follow.follower import EXIT_FAILURE, executor, see_through
from sweeps.jobs import jobs
from sweeps.jobs.jobs import Job, Selection
from sweeps.jobs.task import clear_cancel_marker
from sweeps.plan.plan import load_study, read_cluster
from sweeps.settings.schema import LocalSettings

GRAMMAR = grammar(
    Selection,
    "python sweeps/retry.py STUDY_DIR [run=PATTERN] [task=NAME]    (installed: nepa-retry)",
    "Puts tasks that failed, were cancelled or interrupted in line again, all or those named, with what waits for "
    "them and what they wait for, where the study was last launched. They continue from their last checkpoint.",
    "nepa-retry studies/demo-model_size task=classify",
)


@command(GRAMMAR)
def main(selection: Selection) -> int:
    """Retry what ``selection`` names; returns the exit code."""
    planned, study_dir = load_study(selection.study_dir), selection.study_dir
    keys = set(selection.keys(planned))
    cluster = read_cluster(study_dir)
    place = executor(cluster, study_dir)
    place.check()
    with exclusive(study_dir):
        unfinished = jobs.unfinished_jobs(planned, study_dir)
        place.settle(unfinished)
        idle = [job for job in unfinished if jobs.state(job) not in jobs.UNDER_WAY and not place.works_on(job)]
        chosen = _chosen(idle, keys)
        print(f"retrying {len(chosen)} of {len(unfinished)} unfinished tasks")
        for job in chosen:
            clear_cancel_marker(jobs.task_dir(job))
        for line in place.submit(chosen):
            print(line)
    if not chosen:
        return _say_why(keys & {job.key for job in unfinished}, keys & {job.key for job in idle})
    return see_through(place, planned, study_dir, chosen, watch=isinstance(cluster, LocalSettings))


def _chosen(idle: Sequence[Job], keys: Collection[str]) -> list[Job]:
    """The ``idle`` jobs to take up: those among ``keys``, what waits for them, and what they wait for.

    A task without a status was never in line. It is left to the launcher, which may hold it back on purpose.
    """
    tried = [job for job in idle if read_status(jobs.task_dir(job)) is not None]
    return jobs.with_parents(jobs.with_dependants([job for job in tried if job.key in keys], tried), idle)


def _say_why(unfinished: Collection[str], idle: Collection[str]) -> int:
    """Say why none of the named tasks is retried; returns the exit code."""
    if not unfinished:
        print("all tasks named are finished")
        return 0
    if busy := len(unfinished) - len(idle):
        print(f"{busy} tasks named wait or run already; `nepa-status` shows them")
    if idle:
        print(f"{len(idle)} tasks named were never in line; `nepa-launch` starts them")
    return EXIT_FAILURE


if __name__ == "__main__":
    sys.exit(main())
