"""Stop tasks of a study from any shell: ``python sweeps/cancel.py STUDY_DIR [run=PATTERN] [task=NAME]``."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    # Run as a script, Python imports from this file's folder; import from the checkout it belongs to instead.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from nepa_scale.run_dir.status import exclusive
from nepa_scale.utils.arguments import grammar, option
from nepa_scale.utils.cli import command
from nepa_scale.utils.errors import shortened
from sweeps.follow.follower import Executor, executor
from sweeps.jobs import jobs
from sweeps.jobs.jobs import Job, Selection
from sweeps.jobs.task import CANCELLED, mark_cancelled
from sweeps.jobs.task_status import not_begun
from sweeps.plan import plan
from sweeps.plan.plan import load_study, read_cluster

EXIT_FAILURE = 1
PATIENCE_SECONDS, ASK_AGAIN_SECONDS = 120.0, 2.0


@dataclass(frozen=True)
class Request(Selection):
    """What the command line asks for."""

    forget: bool = option(
        "stop nothing; take the runs of which no task has begun, waits or runs out of the plan, with their folders",
        False,
    )

    def problems(self) -> list[str]:
        """What does not go together."""
        if not self.forget:
            return []
        whole = ["forget=true: it takes out whole runs; leave out task"] if self.task else []
        return whole + ([] if self.run else ["forget=true needs run=PATTERN: runs may wait on purpose"])


GRAMMAR = grammar(
    Request,
    "python sweeps/cancel.py STUDY_DIR [run=PATTERN] [task=NAME] [forget=true]    (installed: nepa-cancel)",
    "Stops tasks of a study, all that are not finished or those named, and with a pre-training all that waits for "
    "it. What runs saves first. A cancelled task stays so, whatever is launched, until `nepa-retry` takes it up again.",
    "nepa-cancel studies/demo-model_size run='pico*' task=segment",
)


@command(GRAMMAR)
def main(request: Request) -> int:
    """Cancel or forget what ``request`` names; returns the exit code."""
    planned = load_study(request.study_dir)
    keys = set(request.keys(planned))
    place = executor(read_cluster(request.study_dir), request.study_dir)
    if request.forget:
        return _forget(place, request.study_dir, {key.partition("/")[0] for key in keys})
    todo = jobs.jobs_to_do(planned, request.study_dir)
    chosen = jobs.with_dependants([job for job in todo if job.key in keys], todo)
    for job in chosen:
        mark_cancelled(jobs.task_dir(job))
    place.cancel(chosen)
    left = _wait(place, chosen)
    print(f"cancelled: {len(chosen) - len(left)} tasks; `nepa-retry` takes them up again")
    for job in left:
        print(f"still running: {planned.titles[job.key]}, which is to stop at its next step")
    return EXIT_FAILURE if left else 0


def _forget(place: Executor, study_dir: Path, run_ids: Collection[str]) -> int:
    """Take those of ``run_ids`` that have not begun out of the plan, with their folders; returns the exit code."""
    with exclusive(study_dir):
        planned = load_study(study_dir)
        place.settle(jobs.unfinished_jobs(planned, study_dir))
        forgotten = not_begun(planned, study_dir, run_ids)
        runs = tuple(run for run in planned.runs if run.run_id not in forgotten)
        plan.save(dataclasses.replace(planned, runs=runs), study_dir)
        for run_id in forgotten:
            shutil.rmtree(plan.run_dir(study_dir, run_id), ignore_errors=True)
    named = f": {shortened(name for run_id, name in planned.names.items() if run_id in forgotten)}" if forgotten else ""
    print(f"forgotten: {len(forgotten)} runs{named}")
    if left := len(run_ids) - len(forgotten):
        print(f"{left} runs have begun, are in line or are needed by others, and stay")
    return 0


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
