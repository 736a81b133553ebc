"""Measures the time of tasks by short trainings, on this machine or on Slurm, where it is not known yet.

On this machine a task trains in every slot at once: a task that has the machine to itself is faster than one that
shares it with others, as in a study. On Slurm each training is a job of the shape that the study's will have.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from nepa_scale.config import overrides
from nepa_scale.config.early_stop import KNN, asks_for_knn
from nepa_scale.config.registry import spec
from nepa_scale.config.schema import RunConfig
from nepa_scale.config.task_settings import PretrainConfig
from nepa_scale.placement.costs import task_cost
from nepa_scale.run_dir.status import now
from nepa_scale.utils.errors import UserError
from nepa_scale.utils.files import read_json
from sweeps.jobs import jobs
from sweeps.jobs.jobs import Job, printed_error
from sweeps.jobs.task import ROOT, run_task
from sweeps.local import processes
from sweeps.local.leases import whole_machine
from sweeps.local.processes import ForkServer, fork_server
from sweeps.plan import measured_times
from sweeps.plan.feasibility import check_shards, make_embedded_data
from sweeps.plan.grids import RunSpec
from sweeps.plan.machine import Placements, Resources, Slots, Speed, local_slots, of_task, seedless
from sweeps.plan.measured_times import Measurement, Measurements, Timing, evaluates, family_of, work_of
from sweeps.settings.schema import Launch, LocalSettings, SlurmSettings
from sweeps.slurm.executor import SlurmExecutor
from sweeps.slurm.job_states import SchedulerUnavailableError

#: From this ratio of the largest to the smallest task of a family on, one between them is measured, too.
WIDE = 30.0
TARGET_SECONDS = 2.0
SHORTEST, LONGEST = 5, 40
LOCAL_POLL_SECONDS = 0.02
SLURM_POLL_SECONDS = 2.0


@dataclass(frozen=True)
class Shape:
    """A task on so many ``devices``, which stands for all of its family with equal ``work`` (FLOPs of a step)."""

    config: RunConfig
    task: str
    family: str
    work: float
    label: str
    devices: int


@dataclass(frozen=True)
class ShortRun:
    """A training from which the time of each part can be told: six intervals of the log, of ``log_every`` steps each.

    The first is warm-up. A checkpoint follows the third and makes the fourth longer. If the task ``evaluates`` before
    its end, an evaluation and another checkpoint follow the fourth; in a probe that evaluation includes the nearest
    neighbours. The second, third and sixth are steps only.
    """

    log_every: int
    evaluates: bool

    @property
    def steps(self) -> int:
        """Its length."""
        return 6 * self.log_every

    @property
    def save_every(self) -> int:
        """Steps between checkpoints."""
        return 3 * self.log_every

    @property
    def evaluate_every(self) -> int:
        """Steps between evaluations; 0 = only at the end."""
        return 4 * self.log_every if self.evaluates else 0

    def timing(self, task_dir: Path, seconds: float | None = None) -> Timing:
        """The timing of such a run in ``task_dir``. Raises ``ValueError`` for any other run.

        ``seconds``: the lifetime of its process; without it, what follows the result is left out.
        """
        result = read_json(task_dir / "result.json")
        records = [json.loads(line) for line in (task_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        records = [record for record in records if "images_per_second" in record]
        if [record["step"] for record in records] != [self.log_every * number for number in range(1, 7)]:
            raise ValueError(f"{task_dir}: not the record of a calibration")
        training = [_training_seconds(record, self.log_every) for record in records]
        step = fmean(training[number] for number in (1, 2, 5)) / self.log_every
        plain = step * self.log_every
        saving = training[3:5] if self.evaluates else training[3:4]
        between = records[4]["elapsed_seconds"] - records[3]["elapsed_seconds"] - training[4]
        started = result["startup_seconds"] or 0.0
        life = started + result["wall_seconds"] if seconds is None else seconds
        return Timing(
            startup=started + max(0.0, training[0] - plain) + records[0]["elapsed_seconds"] - training[0],
            step=step,
            save=max(0.0, fmean(saving) - plain),
            evaluation=max(0.0, between),
            finish=max(0.0, life - started - records[5]["elapsed_seconds"]),
        )


def known_times(request: Launch, run_specs: Mapping[str, RunSpec], placed: Placements, speed: Speed) -> Measurements:
    """The measurements of such tasks on these devices; with ``calibrate`` the missing ones are made first."""
    folder = measured_times.cache_folder()
    known = measured_times.load(folder, measured_times.device_of(request.cluster))
    missing = unmeasured(run_specs, placed, known) if request.calibrate else []
    if missing:
        folder = measured_times.check_folder(folder)
        check_shards(run_specs.values())
        make_embedded_data(run_specs.values())
        runs = [(shape, short_run(shape, speed.seconds_of_work(shape.work))) for shape in missing]
        if isinstance(request.cluster, LocalSettings):
            measurements = run_here(runs, local_slots(request.cluster), folder)
        else:
            measurements = run_on_slurm(runs, request.cluster, folder)
        for measurement in measurements:
            known.add(measurement)
        known.save(folder)
    return known.of(families(run_specs, placed))


def unmeasured(run_specs: Mapping[str, RunSpec], placed: Placements, known: Measurements) -> list[Shape]:
    """The shapes to measure: of each family the smallest, the largest, and one between if they are far apart."""
    chosen = [shape for family in families(run_specs, placed).values() for shape in _ends(family)]
    return [shape for shape in chosen if not known.has(shape.family, shape.work)]


def families(run_specs: Mapping[str, RunSpec], placed: Placements) -> dict[str, dict[float, Shape]]:
    """{family: {work of a step: a task with that work}} of all tasks."""
    shapes: dict[str, dict[float, Shape]] = {}
    different = {(seedless(run_spec.config), run_spec.tasks): run_spec for run_spec in run_specs.values()}
    for run_spec in different.values():
        for task in run_spec.tasks:
            placement = placed.of(run_spec.config, task)
            cost = task_cost(run_spec.config, task, activation_checkpointing=placement.activation_checkpointing)
            family, work = family_of(run_spec.config, task, placement), work_of(cost)
            shape = Shape(run_spec.config, task, family, work, f"{run_spec.label} {task}", placement.world_size)
            shapes.setdefault(family, {}).setdefault(work, shape)
    return shapes


def _ends(family: dict[float, Shape]) -> list[Shape]:
    works = sorted(family)
    chosen = {works[0], works[-1]}
    if works[-1] > WIDE * works[0]:
        middle = math.sqrt(works[0] * works[-1])
        chosen.add(min(works, key=lambda work: abs(math.log(work / middle))))
    return [family[work] for work in sorted(chosen)]


def short_run(shape: Shape, step_seconds: float | None) -> ShortRun:
    """A run whose measured steps take about ``TARGET_SECONDS``, if one takes ``step_seconds``."""
    log_every = round(TARGET_SECONDS / 3 / step_seconds) if step_seconds else 2 * SHORTEST
    return ShortRun(max(SHORTEST, min(LONGEST, log_every)), evaluates(shape.config.task_config(shape.task)))


def short_config(config: RunConfig, task: str, run: ShortRun) -> RunConfig:
    """``config`` shortened to ``run`` of ``task`` only. Without weights to start from, ``task`` starts from scratch."""
    section = config.task_config(task)
    pretraining = not spec(task).downstream
    section = dataclasses.replace(
        section,
        steps=run.steps,
        epochs=None,
        eval_every=run.evaluate_every,
        milestones=f"{{{run.steps}: {{{KNN}: 0.0}}}}" if pretraining and asks_for_knn(section) else None,
    )
    if isinstance(section, PretrainConfig):
        section = dataclasses.replace(section, stop_on_collapse=False)
    saving = dataclasses.replace(config.checkpoint, every=run.save_every, keep_steps=None, branch_from=None)
    return dataclasses.replace(
        config,
        task=task,
        init="scratch" if config.init == "pretrain" and not pretraining else config.init,
        pretrain_dir=None,
        checkpoint=saving,
        log=dataclasses.replace(config.log, every=run.log_every),
        **{task: section},  # type: ignore[arg-type]
    )


def run_here(runs: Sequence[tuple[Shape, ShortRun]], slots: Slots, folder: Path) -> list[Measurement]:
    """Do the ``runs`` one after the other in a temporary folder below ``folder``.

    No task of another study runs meanwhile. Raises ``UserError`` with the first error of a task that fails.
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
            timing = _time_copies(shape, run, slots, Path(temporary) / str(number), server)
            measurements.append(Measurement(shape.family, shape.work, timing, shape.label, now(), shape.devices))
    return measurements


def _warm_up() -> None:
    """Import the trainer's libraries once, as the first process after a restart waits longer for the disk."""
    imports = "import nepa_scale.engine.engine, nepa_scale.tasks.pretrain"
    subprocess.run([sys.executable, "-c", imports], cwd=ROOT, capture_output=True, check=False)


def _time_copies(shape: Shape, run: ShortRun, slots: Slots, folder: Path, server: ForkServer | None) -> Timing:
    """The mean timing of a copy of the ``run`` in every slot, all at once."""
    work = [_job(folder.absolute() / str(slot), shape, run, Resources()) for slot in range(slots.count)]
    started = time.perf_counter()
    handles = [processes.start(job, slots, _gpus(slots, slot), server) for slot, job in enumerate(work)]
    try:
        took = [0.0] * len(handles)
        while not all(took):
            time.sleep(LOCAL_POLL_SECONDS)
            for slot, (job, handle) in enumerate(zip(work, handles, strict=True)):
                if not took[slot] and handle.done():
                    took[slot] = time.perf_counter() - started
                    error = processes.last_words(handle)
                    if error is not None:
                        raise UserError(f"calibrating {shape.label}: {printed_error(job) or error}")
    finally:
        for handle in handles:
            processes.kill_tree(int(handle.job_id))
            handle.done()  # collects the exit status, so that no zombie is left
    return mean([run.timing(jobs.task_dir(job), seconds) for job, seconds in zip(work, took, strict=True)])


def _gpus(slots: Slots, slot: int) -> list[str]:
    """The GPUs of a slot, one for each rank."""
    first = slot * slots.processes
    return [slots.gpus[(first + rank) % len(slots.gpus)] for rank in range(slots.processes)] if slots.gpus else []


def run_on_slurm(runs: Sequence[tuple[Shape, ShortRun]], settings: SlurmSettings, folder: Path) -> list[Measurement]:
    """Submit the ``runs`` from a temporary folder below ``folder``, which the nodes must see, and wait for their end.

    Raises ``UserError`` with Slurm's message, or the first reason of a task that failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="running-", ignore_cleanup_errors=True) as temporary:
        study_dir = Path(temporary)
        executor = SlurmExecutor(settings, study_dir)
        executor.check()
        todo = [
            _job(study_dir / "runs" / str(number), shape, run, of_task(settings, shape.devices, None))
            for number, (shape, run) in enumerate(runs)
        ]
        try:
            executor.submit(todo)
            print(f"calibrating: {len(todo)} tasks on Slurm", flush=True)
            while _is_active(executor):
                time.sleep(SLURM_POLL_SECONDS)
        except BaseException:  # above all Ctrl-C: the jobs of a launch that has ended shall not take nodes
            executor.cancel(todo)
            raise
        return [_measurement(shape, run, job, executor) for (shape, run), job in zip(runs, todo, strict=True)]


def _is_active(executor: SlurmExecutor) -> bool:
    try:
        return executor.is_active()
    except SchedulerUnavailableError:  # the jobs go on, and Slurm is asked again
        return True


def _job(run_dir: Path, shape: Shape, run: ShortRun, resources: Resources) -> Job:
    """The ``run`` of a shape as a job in ``run_dir``."""
    overrides.save(short_config(shape.config, shape.task, run), run_dir / "config.yaml")
    return Job(
        key=f"{run_dir.name}/{shape.task}",
        function=functools.partial(run_task, str(run_dir), shape.task),
        folder=run_dir / shape.task / "submitit",
        resources=resources,
    )


def _measurement(shape: Shape, run: ShortRun, job: Job, executor: SlurmExecutor) -> Measurement:
    if not jobs.is_done(job):
        reason = executor.gone([job.key]).get(job.key, "it ended without a result")
        raise UserError(f"calibrating {shape.label}: {reason}")
    timing = run.timing(jobs.task_dir(job))
    return Measurement(shape.family, shape.work, timing, shape.label, now(), shape.devices)


def mean(timings: Sequence[Timing]) -> Timing:
    """The mean of each part."""
    return Timing(*(fmean(getattr(timing, name) for timing in timings) for name in Timing.__dataclass_fields__))


def _training_seconds(record: dict[str, Any], steps: int) -> float:
    """Time of the interval that ended with ``record``, without evaluations."""
    return steps * record["images_seen"] / record["step"] / record["images_per_second"]
