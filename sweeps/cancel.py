"""Stop tasks of a study from any shell: ``python sweeps/cancel.py STUDY_DIR [run=PATTERN] [task=NAME]``."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    # Run as a script, Python imports from this file's folder; import from the checkout it belongs to instead.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from nepa_scale.utils.arguments import grammar
from nepa_scale.utils.cli import command
from sweeps.follow.follower import Executor, executor
from sweeps.jobs import jobs
from sweeps.jobs.jobs import Job, Selection
from sweeps.jobs.task import CANCELLED, mark_cancelled
from sweeps.plan.plan import load_study, read_cluster

EXIT_FAILURE = 1
PATIENCE_SECONDS, ASK_AGAIN_SECONDS = 120.0, 2.0
GRAMMAR = grammar(
    Selection,
    "python sweeps/cancel.py STUDY_DIR [run=PATTERN] [task=NAME]    (installed: nepa-cancel)",
    "Stops tasks of a study, all that are not finished or those named, and with a pre-training all that waits for "
    "it. What runs saves first. A cancelled task stays so, whatever is launched, until `nepa-retry` takes it up again.",
    "nepa-cancel studies/demo-model_size run='pico*' task=segment",
)


@command(GRAMMAR)
def main(selection: Selection) -> int:
    """Cancel what ``selection`` names; returns the exit code."""
    planned = load_study(selection.study_dir)
    keys = set(selection.keys(planned))
    place = executor(read_cluster(selection.study_dir), selection.study_dir)
    todo = jobs.jobs_to_do(planned, selection.study_dir)
    chosen = jobs.with_dependants([job for job in todo if job.key in keys], todo)
    for job in chosen:
        mark_cancelled(jobs.task_dir(job))
    place.cancel(chosen)
    left = _wait(place, chosen)
    print(f"cancelled: {len(chosen) - len(left)} tasks; `nepa-retry` takes them up again")
    for job in left:
        print(f"still running: {planned.titles[job.key]}, which is to stop at its next step")
    return EXIT_FAILURE if left else 0


def _wait(place: Executor, chosen: Sequence[Job]) -> list[Job]:
    """Wait until nobody works on ``chosen``, and say so in their status; returns those that go on."""
    deadline, left = time.monotonic() + PATIENCE_SECONDS, list(chosen)
    while left and time.monotonic() < deadline:
        for job in [job for job in left if not place.works_on(job)]:
            left.remove(job)
            if not jobs.is_done(job):
                jobs.end(job, CANCELLED)
        if left:
            time.sleep(ASK_AGAIN_SECONDS)
            place.cancel(left)
    return left


if __name__ == "__main__":
    sys.exit(main())
