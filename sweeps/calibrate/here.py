"""Measuring tasks on this machine: each trains for some steps as the queue starts it, in a copy for every slot.

A task that has a machine to itself is faster than one that shares it, so what is measured is a machine as busy as a
study makes it.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from nepa_scale.config import overrides
from nepa_scale.run_dir.status import now
from nepa_scale.utils.errors import UserError
from sweeps.calibrate.shapes import Shape
from sweeps.calibrate.short_runs import short_config
from sweeps.jobs.environment import ROOT
from sweeps.jobs.jobs import printed_error
from sweeps.jobs.schedule import Job
from sweeps.jobs.task import run_task
from sweeps.local import processes
from sweeps.local.alone import whole_machine
from sweeps.local.forking import ForkServer, fork_server
from sweeps.plan.machine import Slots
from sweeps.plan.measured_times import Measurement
from sweeps.plan.timing import ShortRun, Timing, mean

POLL_SECONDS = 0.02


def run_here(runs: Sequence[tuple[Shape, ShortRun]], slots: Slots, folder: Path) -> list[Measurement]:
    """Do the ``runs`` one after the other in a temporary folder below ``folder``, and say on the way which.

    Tasks of other studies are waited for, and wait meanwhile. Raises ``UserError`` with the first error of a task that
    fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    measurements = []
    with (
        whole_machine(slots.gpus),
        fork_server(slots) as server,
        tempfile.TemporaryDirectory(dir=folder, prefix="running-", ignore_cleanup_errors=True) as temporary,
    ):
        if server is None:
            _warm_up()
        else:
            server.wait()
        for number, (shape, run) in enumerate(runs, start=1):
            print(f"calibrating {number}/{len(runs)}: {shape.label}", flush=True)
            timing = _measured(shape, run, slots, Path(temporary) / str(number), server)
            measurements.append(Measurement(shape.family, shape.work, timing, shape.label, now(), shape.devices))
    return measurements


def _warm_up() -> None:
    """Read the trainer's libraries once: after an installation or a restart the first process waits for the disk, and
    no other does."""
    heavy = "import nepa_scale.engine.engine, nepa_scale.tasks.pretrain"
    subprocess.run([sys.executable, "-c", heavy], cwd=ROOT, capture_output=True, check=False)


def _measured(shape: Shape, run: ShortRun, slots: Slots, folder: Path, server: ForkServer | None) -> Timing:
    config = short_config(shape.config, shape.task, run)
    copies = [folder / str(slot) for slot in range(slots.count)]
    for copy in copies:
        overrides.save(config, copy / "config.yaml")
    work = [_job(shape, copy) for copy in copies]
    started = time.perf_counter()
    handles = [processes.start(job, slots, _gpus(slots, slot), server) for slot, job in enumerate(work)]
    try:
        took = [0.0] * len(handles)
        while not all(took):
            time.sleep(POLL_SECONDS)
            for slot, (job, handle) in enumerate(zip(work, handles, strict=True)):
                if not took[slot] and handle.done():
                    took[slot] = time.perf_counter() - started
                    words = processes.last_words(handle)
                    if words is not None:
                        raise UserError(f"calibrating {shape.label}: {printed_error(job) or words}")
    finally:
        for handle in handles:
            processes.kill_tree(int(handle.job_id))
            handle.done()  # takes note of the end, so that no zombie stays
    return mean([run.timing(copy / shape.task, seconds) for copy, seconds in zip(copies, took, strict=True)])


def _job(shape: Shape, run_dir: Path) -> Job:
    function = functools.partial(run_task, str(run_dir.absolute()), shape.task)
    folder = run_dir.absolute() / shape.task / "submitit"
    return Job(key=shape.label, function=function, folder=folder, after=(), cost=0.0)


def _gpus(slots: Slots, slot: int) -> list[str]:
    """The GPUs of a slot, one for each rank."""
    first = slot * slots.processes
    return [slots.gpus[(first + rank) % len(slots.gpus)] for rank in range(slots.processes)] if slots.gpus else []
