"""Measuring tasks on this machine: each trains for some steps by the real command, in a copy for every slot.

A task that has a machine to itself is faster than one that shares it, so what is measured is a machine as busy as a
study makes it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from nepa_scale import overrides
from nepa_scale.errors import UserError
from nepa_scale.placing.visible_gpus import showing
from nepa_scale.status import now
from sweeps.calibrating.measurements import Measurement
from sweeps.calibrating.shapes import Shape
from sweeps.calibrating.short_runs import short_config
from sweeps.calibrating.timing import ShortRun, Timing, mean
from sweeps.handing_over import environment_of_job
from sweeps.jobs import first_error
from sweeps.machine import Slots
from sweeps.on_machine.alone import whole_machine

TRAIN = Path(__file__).resolve().parents[2] / "nepa_scale" / "train.py"
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
        tempfile.TemporaryDirectory(dir=folder, prefix="running-", ignore_cleanup_errors=True) as temporary,
    ):
        _warm_up()
        for number, (shape, run) in enumerate(runs, start=1):
            print(f"calibrating {number}/{len(runs)}: {shape.label}", flush=True)
            timing = _measured(shape, run, slots, Path(temporary) / str(number))
            measurements.append(Measurement(shape.family, shape.work, timing, shape.label, now(), shape.devices))
    return measurements


def _warm_up() -> None:
    """Read the trainer's libraries once: after an installation or a restart the first process waits for the disk, and
    no other does."""
    heavy = "import nepa_scale.zero.engine, nepa_scale.tasks.pretrain"
    subprocess.run([sys.executable, "-c", heavy], cwd=TRAIN.parents[1], capture_output=True, check=False)


def _measured(shape: Shape, run: ShortRun, slots: Slots, folder: Path) -> Timing:
    config = short_config(shape.config, shape.task, run)
    copies = [folder / str(slot) for slot in range(slots.count)]
    for copy in copies:
        overrides.save(config, copy / "config.yaml")
    started = time.perf_counter()
    processes = [_start(shape.task, copy, slots, slot) for slot, copy in enumerate(copies)]
    try:
        took = [0.0] * len(processes)
        while not all(took):
            time.sleep(POLL_SECONDS)
            for slot, process in enumerate(processes):
                if not took[slot] and process.poll() is not None:
                    took[slot] = time.perf_counter() - started
                    if process.returncode:
                        raise UserError(f"calibrating {shape.label}: {_error_of(copies[slot], process.returncode)}")
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return mean([run.timing(copy / shape.task, seconds) for copy, seconds in zip(copies, took, strict=True)])


def _start(task: str, run_dir: Path, slots: Slots, slot: int) -> subprocess.Popen[bytes]:
    words = [f"config={run_dir / 'config.yaml'}", f"task={task}", f"run_dir={run_dir}"]
    variables = {"OMP_NUM_THREADS": str(max(1, slots.threads // slots.processes))}
    if slots.gpus:
        own = [slots.gpus[(slot * slots.processes + rank) % len(slots.gpus)] for rank in range(slots.processes)]
        variables |= showing(own)
    together = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(slots.processes)]
    command = [sys.executable, *(together if slots.processes > 1 else ()), str(TRAIN), *words]
    with (run_dir / "printed.txt").open("wb") as printed:
        return subprocess.Popen(
            command,
            stdout=printed,
            stderr=subprocess.STDOUT,
            env=environment_of_job(variables),
            start_new_session=True,
        )


def _error_of(run_dir: Path, code: int) -> str:
    """The first error that a process printed."""
    printed = (run_dir / "printed.txt").read_text(encoding="utf-8", errors="replace")
    last = (printed.splitlines() or ["nothing was printed"])[-1]
    return first_error(printed) or f"exit code {code}; {last}"
