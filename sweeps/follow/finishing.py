"""The end of a command that put tasks in line: leave them to it, or stay until they are done and tell how it went."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

from nepa_scale.distributed.signals import StopRequest, handle
from sweeps.follow import display
from sweeps.follow.accuracy import accuracy_table, outcomes
from sweeps.follow.executors import Executor
from sweeps.follow.following import Follower
from sweeps.jobs import jobs
from sweeps.jobs.schedule import Job
from sweeps.plan.plan import Plan

EXIT_FAILURE = 1


def see_through(place: Executor, planned: Plan, study_dir: Path, todo: Sequence[Job], *, watch: bool) -> int:
    """Watch ``todo`` to the end, or say how to; returns the exit code: 1 where something is not finished."""
    if not watch:
        print(f"`nepa-status {study_dir}` shows how far they are, `nepa-cancel` stops them")
        return 0
    stop = StopRequest()
    handle(signal.SIGHUP, signal.SIG_DFL)  # a closed terminal ends the watching, not the work
    console = display.make_console()
    follower = Follower(todo, planned.titles, console)
    stopped = follower.follow(place, stop)
    console.print(display.results_table(planned, study_dir))
    if found := outcomes(planned, study_dir):
        console.print("", accuracy_table(found), sep="\n")
    rows = [(planned.titles[job.key], error, jobs.log_file(job)) for job, error in follower.failures]
    for line in display.failure_lines(rows):
        print(line)
    left = [job for job in todo if not jobs.is_done(job)]
    if stopped:
        print(place.stop() or "stopped: what ran is saved; the same command continues")
    elif len(left) > len(rows):
        print(f"{len(left) - len(rows)} tasks are not finished and nobody works on them; {place.traces()}")
    return EXIT_FAILURE if left else 0
