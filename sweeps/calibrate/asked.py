"""What is known of times where a launch will run, and with ``calibrate=true`` what is missing of that, measured."""

from __future__ import annotations

from collections.abc import Mapping

from sweeps.calibrate.here import run_here
from sweeps.calibrate.on_slurm import run_on_slurm
from sweeps.calibrate.shapes import families, unmeasured
from sweeps.calibrate.short_runs import short_run
from sweeps.plan import measured_times
from sweeps.plan.data_sets import check_shards, make_embedded_data
from sweeps.plan.machine import Speed, local_slots
from sweeps.plan.placements import Placements
from sweeps.plan.run_spec import RunSpec
from sweeps.settings.schema import Launch, LocalSettings


def known_times(
    request: Launch, points: Mapping[str, RunSpec], placed: Placements, speed: Speed
) -> measured_times.Measurements:
    """What is known of times of such tasks on these devices; with ``calibrate`` after measuring what is missing."""
    folder = measured_times.cache_folder()
    known = measured_times.load(folder, measured_times.device_of(request.cluster))
    missing = unmeasured(points, placed, known) if request.calibrate else []
    if missing:
        folder = measured_times.check_folder(folder)
        check_shards(points.values())
        make_embedded_data(points.values())
        runs = [(shape, short_run(shape, speed.seconds_of_work(shape.work))) for shape in missing]
        if isinstance(request.cluster, LocalSettings):
            found = run_here(runs, local_slots(request.cluster), folder)
        else:
            found = run_on_slurm(runs, request.cluster, folder)
        for measurement in found:
            known.add(measurement)
        known.save(folder)
    return known.of(families(points, placed))
