"""Measuring tasks on a Slurm cluster: each trains for some steps as a job of the shape that the study's will have."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from nepa_scale.config import overrides
from nepa_scale.run_dir.status import now
from nepa_scale.utils.errors import UserError
from sweeps.calibrate.shapes import Shape
from sweeps.calibrate.short_runs import short_config
from sweeps.jobs import jobs
from sweeps.jobs.schedule import Job
from sweeps.jobs.scheduler_unavailable import NoAnswer
from sweeps.jobs.task import run_task
from sweeps.plan.measured_times import Measurement
from sweeps.plan.resources import of_task
from sweeps.plan.timing import ShortRun
from sweeps.settings.schema import SlurmSettings
from sweeps.slurm.executor import SlurmExecutor

POLL_SECONDS = 2.0


def run_on_slurm(runs: Sequence[tuple[Shape, ShortRun]], settings: SlurmSettings, folder: Path) -> list[Measurement]:
    """Submit the ``runs`` from a temporary folder below ``folder``, which the nodes must see, and wait for their end.

    Raises ``UserError`` with Slurm's words, or the first reason of a task that failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="running-", ignore_cleanup_errors=True) as temporary:
        study_dir = Path(temporary)
        place = SlurmExecutor(settings, study_dir)
        place.check()
        todo = [
            _job(study_dir / "runs" / str(number), shape, run, settings) for number, (shape, run) in enumerate(runs)
        ]
        try:
            place.submit(todo)
            print(f"calibrating: {len(todo)} tasks on Slurm", flush=True)
            while _is_active(place):
                time.sleep(POLL_SECONDS)
        except BaseException:  # Ctrl-C above all: what nobody waits for any more should not take nodes
            place.cancel(todo)
            raise
        return [_measurement(shape, run, job, place) for (shape, run), job in zip(runs, todo, strict=True)]


def _is_active(place: SlurmExecutor) -> bool:
    try:
        return place.is_active()
    except NoAnswer:  # the jobs go on meanwhile, and it is asked again
        return True


def _job(run_dir: Path, shape: Shape, run: ShortRun, settings: SlurmSettings) -> Job:
    overrides.save(short_config(shape.config, shape.task, run), run_dir / "config.yaml")
    return Job(
        key=f"{run_dir.name}/{shape.task}",
        function=functools.partial(run_task, str(run_dir), shape.task),
        folder=run_dir / shape.task / "submitit",
        resources=of_task(settings, shape.devices, None),
    )


def _measurement(shape: Shape, run: ShortRun, job: Job, place: SlurmExecutor) -> Measurement:
    if not jobs.is_done(job):
        reason = place.gone([job.key]).get(job.key, "it ended without a result")
        raise UserError(f"calibrating {shape.label}: {reason}")
    timing = run.timing(jobs.task_dir(job))
    return Measurement(shape.family, shape.work, timing, shape.label, now(), shape.devices)
