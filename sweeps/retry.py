"""Take up failed and cancelled tasks again: ``python sweeps/retry.py STUDY_DIR [run=PATTERN] [task=NAME]``."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a script, Python imports from this file's folder; import from the checkout it belongs to instead.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from nepa_scale.run_dir.status import exclusive
from nepa_scale.utils.arguments import grammar
from nepa_scale.utils.cli import command
from sweeps.follow.follower import executor, see_through
from sweeps.jobs import jobs
from sweeps.jobs.jobs import Selection
from sweeps.jobs.task import clear_cancel_marker
from sweeps.plan.plan import load_study, read_cluster, task_dir
from sweeps.settings.schema import LocalSettings

GRAMMAR = grammar(
    Selection,
    "python sweeps/retry.py STUDY_DIR [run=PATTERN] [task=NAME]    (installed: nepa-retry)",
    "Puts tasks that failed or were cancelled in line again, all or those named, with what waits for them, where "
    "the study was last launched. They continue from their last checkpoint.",
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
        for key in keys:
            clear_cancel_marker(task_dir(study_dir, key))
        place.settle(jobs.jobs_to_do(planned, study_dir))
        todo = jobs.jobs_to_do(planned, study_dir)
        failed = [job for job in todo if jobs.state(job) == "failed"]
        chosen = jobs.with_dependants([job for job in failed if job.key in keys], failed)
        chosen = jobs.with_parents(chosen, todo)
        print(f"retrying {len(chosen)} of {len(todo)} unfinished tasks")
        for line in place.submit(chosen):
            print(line)
    return see_through(place, planned, study_dir, chosen, watch=isinstance(cluster, LocalSettings))


if __name__ == "__main__":
    sys.exit(main())
