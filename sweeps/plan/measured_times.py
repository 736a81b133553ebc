"""Measured times: how a task spends its time, kept in the user's cache, and the times of other tasks that follow."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import itertools
import json
import os
import socket
import tempfile
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from nepa_scale.config.early_stop import asks_for_knn, evaluation_steps
from nepa_scale.config.registry import spec
from nepa_scale.config.schema import LATER, RunConfig
from nepa_scale.config.task_settings import TaskConfig
from nepa_scale.placement.costs import TaskCost, saved_steps
from nepa_scale.placement.devices import Placement
from nepa_scale.utils.errors import UserError
from nepa_scale.utils.files import read_json, write_json
from sweeps.plan.machine import local_slots
from sweeps.settings.sbatch_options import sbatch_options
from sweeps.settings.schema import Cluster, LocalSettings

SCHEMA = 1
#: Settings that do not change the time of a step, save or evaluation, only their number if anything.
FREE = (
    "steps",
    "epochs",
    "eval_every",
    "milestones",
    "base_lr",
    "warmup",
    "schedule",
    "decay",
    "weight_decay",
    "beta1",
    "beta2",
)
#: Only in pre-training: a probe compares with all training images.
FREE_IN_PRETRAINING = ("num_images", "fraction", "lr_reference", "lr_exponent", "stop_on_collapse")
SIZES = ("size", "embed_dim", "depth", "num_heads", "mlp_hidden", "layer_scale_init", "weight_init")
SHARED = ("data.num_workers", "data.streaming", "engine.precision", "engine.compile")
#: Tasks larger or smaller than all measured ones by at most this factor are extrapolated from the nearest two.
REACH = 1.25


class Counts(NamedTuple):
    """How many steps, checkpoints and evaluations a task does."""

    steps: int
    saves: int
    evaluations: int


@dataclass(frozen=True)
class Timing:
    """Seconds of each part of a task.

    Attributes:
        startup: from the start of the process to its first step, and the extra time of the first steps.
        step: of one step, with its data.
        save: of one checkpoint.
        evaluation: of one evaluation between two steps.
        finish: of what follows the last step: checkpoint, evaluation, weights, pictures, end of the process.
    """

    startup: float
    step: float
    save: float
    evaluation: float
    finish: float

    def seconds(self, counts: Counts) -> float:
        """Time of a task with these counts."""
        between = counts.steps * self.step + counts.saves * self.save + counts.evaluations * self.evaluation
        return self.startup + between + self.finish

    def scaled(self, factor: float) -> Timing:
        """The timing of a task whose steps do ``factor`` times as much work."""
        return dataclasses.replace(self, step=self.step * factor, evaluation=self.evaluation * factor)


def counts(config: RunConfig, task: str, steps: int, start: int = 0) -> Counts:
    """The counts of ``task`` over ``steps`` steps, of which another run has done the first ``start``."""
    saves, evaluations = saved_steps(config, task, steps), evaluation_steps(config.task_config(task), steps)
    return Counts(steps - start, saves.count(after=start), evaluations.count(after=start))


@dataclass(frozen=True)
class Measurement:
    """The timing of one task. Tasks of one ``family`` differ only in ``work``.

    ``work``: FLOPs of a step on all ``devices``, with recomputation. ``label`` and ``measured_at`` are informative.
    """

    family: str
    work: float
    timing: Timing
    label: str
    measured_at: str
    devices: int = 1


class Measurements:
    """All measurements on one device."""

    def __init__(self, device: dict[str, Any], known: Iterable[Measurement] = ()) -> None:
        self.device = device
        self._families: dict[str, list[Measurement]] = {}
        for measurement in known:
            self.add(measurement)

    def add(self, measurement: Measurement) -> None:
        """Add a measurement, in place of an earlier one of the same family and work."""
        others = [other for other in self._families.get(measurement.family, ()) if other.work != measurement.work]
        self._families[measurement.family] = sorted([*others, measurement], key=lambda member: member.work)

    def has(self, family: str, work: float) -> bool:
        """Whether a task of this family and work was measured."""
        return any(measurement.work == work for measurement in self._families.get(family, ()))

    def of(self, families: Collection[str]) -> Measurements:
        """The measurements of some ``families``."""
        chosen = (measurement for name in families for measurement in self._families.get(name, ()))
        return Measurements(self.device, chosen)

    def seconds(self, family: str, work: float, counts: Counts) -> float | None:
        """Time of a task by measurements of its family around its work; None where there are none."""
        known = self._families.get(family, [])
        if not known or not known[0].work / REACH <= work <= known[-1].work * REACH:
            return None
        return max(0.0, _between([(near.work, near.timing.seconds(counts)) for near in known], work))

    def extended(self, family: str, work: float, devices: int, counts: Counts, least: float) -> float | None:
        """Time of a task unlike all that were measured; None where none was.

        It follows from the measured tasks of its family, or of all families, that are next to it in work per device. A
        task larger than all of them takes at least their start-up and ``least`` seconds.
        """
        known = self._families.get(family) or list(itertools.chain.from_iterable(self._families.values()))
        if not known:
            return None
        per_device, slowest = work / devices, dict[float, Measurement]()
        for measurement in sorted(known, key=lambda member: member.timing.seconds(counts)):
            slowest[measurement.work / measurement.devices] = measurement
        works = sorted(slowest)
        nearest = min(works, key=lambda other: abs(other - per_device))
        timing = slowest[nearest].timing
        scaled = timing.scaled(per_device / nearest).seconds(counts)
        line = _between([(other, slowest[other].timing.seconds(counts)) for other in works], per_device)
        if per_device > works[-1]:
            return max(line if len(works) > 1 else scaled, timing.startup + least)
        return line if per_device >= works[0] else max(line if len(works) > 1 else 0.0, scaled)

    def since(self) -> str:
        """The day of the oldest measurement."""
        return min(measurement.measured_at for family in self._families.values() for measurement in family)[:10]

    def save(self, folder: Path) -> None:
        """Write the file of this device in ``folder``."""
        known = list(map(dataclasses.asdict, itertools.chain.from_iterable(self._families.values())))
        content = {"schema": SCHEMA, "device": self.device, "measurements": known}
        write_json(_file(folder, self.device), content)


def load(folder: Path | None, device: dict[str, Any]) -> Measurements:
    """The measurements of ``device`` in ``folder``; none where there is no readable file."""
    if folder is None:
        return Measurements(device)
    try:
        content = read_json(_file(folder, device))
        missing = {"devices": _devices_of(device)}  # in files of earlier versions
        known = [
            Measurement(**{**missing, **entry, "timing": Timing(**entry["timing"])})
            for entry in content["measurements"]
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return Measurements(device)
    return Measurements(device, known if content.get("schema") == SCHEMA else ())


def _devices_of(device: dict[str, Any]) -> int:
    """The usual number of processes of a task on ``device``."""
    return int(device.get("processes") or device.get("nodes", 1) * device.get("tasks_per_node", 1))


def cache_folder() -> Path | None:
    """The folder of measurements; None for a user without a home. A relative XDG_CACHE_HOME is ignored."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        try:
            base = Path.home() / ".cache"
        except RuntimeError:
            return None
    return base / "nepa_scale" / "calibration"


def check_folder(folder: Path | None) -> Path:
    """Create ``folder`` if needed, and return it. Raises ``UserError`` where nothing can be written there."""
    remedy = "set XDG_CACHE_HOME to a folder that you may write to"
    if folder is None:
        raise UserError(f"calibrate=true: this user has no home folder to keep measurements in; {remedy}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise UserError(
            f"calibrate=true: measurements cannot be kept in {folder} ({error.strerror}); {remedy}"
        ) from error


def device_of(cluster: Cluster) -> dict[str, Any]:
    """What measurements are valid for: this machine with its slots, or a partition with the resources of a task."""
    torch = importlib.metadata.version("torch")
    if isinstance(cluster, LocalSettings):
        slots = local_slots(cluster)
        machine = {"host": socket.gethostname(), "processor": processor(), "gpus": len(slots.gpus)}
        shape = {"slots": slots.count, "threads": slots.threads, "processes": slots.processes}
        started = {"started": "forked"} if slots.forks else {}
        return {**machine, **shape, **started, "torch": torch}
    keys = ("partition", "nodes", "tasks_per_node", "gpus_per_node", "cpus_per_task")
    nodes = {"sbatch": options} if (options := sbatch_options(cluster)) else {}  # a constraint chooses the devices
    return {**{key: getattr(cluster, key) for key in keys}, **nodes, "torch": torch}


def processor() -> str:
    """The model name of this machine's processor; unknown where the system does not say."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def family_of(config: RunConfig, task: str, placement: Placement) -> str:
    """A digest of what a task's time depends on besides the size of its model: data, batch, heads, engine, layout."""
    free = {f"{task}.{name}" for name in FREE} | {f"model.{name}" for name in SIZES}
    pretraining = not spec(task).downstream
    free |= {f"{task}.{name}" for name in FREE_IN_PRETRAINING} if pretraining else set()
    settings = {
        key: value
        for key, value in config.flat().items()
        if (key in SHARED or (key.startswith((f"{task}.", "model.")) and key not in free))
        and not (key in LATER and value == LATER[key])
    }
    layout = {"devices": placement.world_size, "file": placement.ds_config}
    section = config.task_config(task)
    evaluations = {"evaluates": evaluates(section), "neighbours": pretraining and asks_for_knn(section)}
    return _digest({"task": task, **evaluations, **settings, **layout})


def evaluates(section: TaskConfig) -> bool:
    """Whether a task is evaluated before its end."""
    return section.eval_every > 0 or section.milestones is not None


def work_of(cost: TaskCost) -> float:
    """FLOPs that one step executes."""
    return cost.flops_executed / cost.steps


def _between(points: Sequence[tuple[float, float]], work: float) -> float:
    """The value at ``work`` on the line through the two points (work, value) around it, or else the nearest two.

    Values are made non-decreasing first: a larger task is measured as faster than a smaller one only by chance.
    """
    if len(points) == 1:
        return points[0][1]
    points = list(
        zip([work for work, _ in points], itertools.accumulate((value for _, value in points), max), strict=True)
    )
    left, right = next((pair for pair in itertools.pairwise(points) if work <= pair[1][0]), tuple(points[-2:]))
    fraction = (work - left[0]) / (right[0] - left[0])
    return left[1] + fraction * (right[1] - left[1])


def _file(folder: Path, device: dict[str, Any]) -> Path:
    return folder / f"{_digest(device)}.json"


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]
