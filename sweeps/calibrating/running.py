"""Measuring tasks: each runs for some steps through the real command, as many copies at once as there are slots.

A task that has a machine to itself is faster than one that shares it, so what is measured is a machine as busy as a
study makes it.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from nepa_scale import overrides
from nepa_scale.config import PretrainConfig, RunConfig
from nepa_scale.errors import UserError
from nepa_scale.milestones import KNN, asks_for_knn
from nepa_scale.status import now
from sweeps.calibrating.measurements import Measurement, evaluates
from sweeps.calibrating.shapes import Shape
from sweeps.calibrating.timing import ShortRun, Timing, mean
from sweeps.machine import Slots

ROOT = Path(__file__).resolve().parents[2]
TARGET_SECONDS = 2.0
SHORTEST, LONGEST = 5, 40
POLL_SECONDS = 0.02


def measure(
    shapes: Sequence[Shape], slots: Slots, seconds_of: Callable[[float], float | None], folder: Path
) -> list[Measurement]:
    """Run every shape for a moment in a temporary folder below ``folder``, and say on the way which.

    ``seconds_of`` estimates the time of a step from its FLOPs, to choose how many to take. Raises ``UserError`` with
    the first error of a task that fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    measurements = []
    with tempfile.TemporaryDirectory(dir=folder, prefix="running-", ignore_cleanup_errors=True) as temporary:
        for number, shape in enumerate(shapes, start=1):
            print(f"calibrating {number}/{len(shapes)}: {shape.label}", flush=True)
            section = shape.config.task_config(shape.task)
            run = ShortRun(_log_every(seconds_of(shape.work)), evaluates(section))
            timing = _measured(shape, run, slots, Path(temporary) / str(number))
            measurements.append(Measurement(shape.family, shape.work, timing, shape.label, now()))
    return measurements


def short_config(config: RunConfig, task: str, run: ShortRun) -> RunConfig:
    """``config`` cut down to ``run`` of ``task`` alone, from random weights unless it starts from finished ones."""
    section = config.task_config(task)
    asked = task == "pretrain" and asks_for_knn(section)
    section = dataclasses.replace(
        section,
        steps=run.steps,
        epochs=None,
        eval_every=run.evaluate_every,
        milestones=f"{{{run.steps}: {{{KNN}: 0.0}}}}" if asked else None,  # measured by evaluations, always reached
    )
    if isinstance(section, PretrainConfig):
        section = dataclasses.replace(section, stop_on_collapse=False)
    saving = dataclasses.replace(config.checkpoint, every=run.save_every, keep_steps=None, branch_from=None)
    return dataclasses.replace(
        config,
        task=task,
        init="scratch" if config.init == "pretrain" and task != "pretrain" else config.init,
        pretrain_dir=None,
        checkpoint=saving,
        log=dataclasses.replace(config.log, every=run.log_every),
        **{task: section},  # type: ignore[arg-type]
    )


def _log_every(step_seconds: float | None) -> int:
    """Steps between log rows, such that those which count take the target's time, within bounds."""
    if not step_seconds:
        return 2 * SHORTEST
    return max(SHORTEST, min(LONGEST, round(TARGET_SECONDS / 3 / step_seconds)))


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
            process.kill()
            process.wait()
    return mean([run.timing(copy / shape.task, seconds) for copy, seconds in zip(copies, took, strict=True)])


def _start(task: str, run_dir: Path, slots: Slots, slot: int) -> subprocess.Popen[bytes]:
    words = [f"config={run_dir / 'config.yaml'}", f"task={task}", f"run_dir={run_dir}"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(slots.threads)}
    if slots.gpus:
        environment["CUDA_VISIBLE_DEVICES"] = str(slots.gpus[slot % len(slots.gpus)])
    command = [sys.executable, str(ROOT / "nepa_scale" / "train.py"), *words]
    with (run_dir / "printed.txt").open("wb") as printed:
        return subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT, env=environment)


def _error_of(run_dir: Path, code: int) -> str:
    """The first error that a process printed."""
    lines = (run_dir / "printed.txt").read_text(errors="replace").splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return errors[0] if errors else f"exit code {code}; {(lines or ['nothing was printed'])[-1]}"
