"""Measured times, remembered in the user's cache by device and kind of task, and put to use for tasks between them."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import socket
import tempfile
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from nepa_scale.config.early_stop import asks_for_knn
from nepa_scale.config.schema import LATER, RunConfig
from nepa_scale.config.task_settings import TaskConfig
from nepa_scale.placement.costs import TaskCost
from nepa_scale.placement.placed import Placement
from nepa_scale.utils.errors import UserError
from nepa_scale.utils.files import read_json, write_json
from sweeps.plan.machine import local_slots
from sweeps.plan.timing import Counts, Timing
from sweeps.settings.sbatch_options import sbatch_options
from sweeps.settings.schema import Cluster, LocalSettings

SCHEMA = 1
#: Settings that change no step's time, or whose part in it the counts of steps, saves and evaluations tell.
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
#: Only there: a probe's neighbours are all training images.
FREE_IN_PRETRAINING = ("num_images", "fraction", "lr_reference", "lr_exponent", "stop_on_collapse")
SIZES = ("size", "embed_dim", "depth", "num_heads", "mlp_hidden", "layer_scale_init", "weight_init")
SHARED = ("data.num_workers", "data.streaming", "engine.precision", "engine.compile")
#: Beyond the sizes measured by no more than this factor the nearest two are extended.
REACH = 1.25


@dataclass(frozen=True)
class Measurement:
    """The timing of one task shape: ``family`` is what it has in common with others that differ in ``work`` alone.

    ``work``: FLOPs of a step on all ``devices``, recomputation included. ``label`` and ``measured_at`` are for people.
    """

    family: str
    work: float
    timing: Timing
    label: str
    measured_at: str
    devices: int = 1


class Measurements:
    """All that is known of one device."""

    def __init__(self, device: dict[str, Any], known: Iterable[Measurement] = ()) -> None:
        self.device = device
        self._families: dict[str, list[Measurement]] = {}
        for each in known:
            self.add(each)

    def add(self, measurement: Measurement) -> None:
        """Take note of a measurement, in place of an earlier one of the same shape."""
        family = [each for each in self._families.get(measurement.family, ()) if each.work != measurement.work]
        self._families[measurement.family] = sorted([*family, measurement], key=lambda each: each.work)

    def has(self, family: str, work: float) -> bool:
        """Whether this very shape was measured."""
        return any(each.work == work for each in self._families.get(family, ()))

    def of(self, families: Collection[str]) -> Measurements:
        """Those of some ``families``."""
        chosen = (each for name in families for each in self._families.get(name, ()))
        return Measurements(self.device, chosen)

    def seconds(self, family: str, work: float, counts: Counts) -> float | None:
        """Time of a task; None where nothing like it was measured."""
        known = self._families.get(family, [])
        if not known or not known[0].work / REACH <= work <= known[-1].work * REACH:
            return None
        return max(0.0, _between([(each.work, each.timing.seconds(counts)) for each in known], work))

    def extended(self, family: str, work: float, devices: int, counts: Counts, least: float) -> float | None:
        """Time of a task unlike all that were measured; None where none was.

        It follows from the measured ones of its family, or of all, next to it in the work of a device. One that is
        larger than all of them takes at least their start-up and ``least``, one that is smaller their time for as much.
        """
        known = self._families.get(family) or [each for members in self._families.values() for each in members]
        if not known:
            return None
        own, slowest = work / devices, dict[float, Measurement]()
        for each in sorted(known, key=lambda each: each.timing.seconds(counts)):
            slowest[each.work / each.devices] = each
        places = sorted(slowest)
        nearest = min(places, key=lambda place: abs(place - own))
        timing = slowest[nearest].timing
        scaled = timing.scaled(own / nearest).seconds(counts)
        line = _between([(place, slowest[place].timing.seconds(counts)) for place in places], own)
        if own > places[-1]:
            return max(line if len(places) > 1 else scaled, timing.startup + least)
        return line if own >= places[0] else max(line if len(places) > 1 else 0.0, scaled)

    def since(self) -> str:
        """The day of the oldest measurement."""
        return min(each.measured_at for family in self._families.values() for each in family)[:10]

    def save(self, folder: Path) -> None:
        """Write them below ``folder``."""
        known = [dataclasses.asdict(each) for family in self._families.values() for each in family]
        content = {"schema": SCHEMA, "device": self.device, "measurements": known}
        write_json(_file(folder, self.device), content)


def load(folder: Path | None, device: dict[str, Any]) -> Measurements:
    """What ``folder`` says of ``device``; nothing where there is no file, or none that can be read."""
    if folder is None:
        return Measurements(device)
    try:
        content = read_json(_file(folder, device))
        usual = {"devices": _devices_of(device)}  # earlier versions did not write it
        known = [
            Measurement(**{**usual, **each, "timing": Timing(**each["timing"])}) for each in content["measurements"]
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return Measurements(device)
    return Measurements(device, known if content.get("schema") == SCHEMA else ())


def _devices_of(device: dict[str, Any]) -> int:
    """How many processes a task has there, unless it is too large for so few."""
    return int(device.get("processes") or device.get("nodes", 1) * device.get("tasks_per_node", 1))


def cache_folder() -> Path | None:
    """Where measurements are kept; None where this user has no home. A relative XDG_CACHE_HOME counts as none."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        try:
            base = Path.home() / ".cache"
        except RuntimeError:
            return None
    return base / "nepa_scale" / "calibration"


def check_folder(folder: Path | None) -> Path:
    """``folder``, made where it is missing. Raises ``UserError`` where measurements cannot be kept there."""
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
    """What measurements hold for: this machine with its slots, or a partition with what a task asks of it."""
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
    """The model of this machine's processor, as far as the system says."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def family_of(config: RunConfig, task: str, placement: Placement) -> str:
    """What a task's time depends on beside the size of its model: data, batch, heads, engine, layout."""
    free = {f"{task}.{name}" for name in FREE} | {f"model.{name}" for name in SIZES}
    free |= {f"{task}.{name}" for name in FREE_IN_PRETRAINING} if task == "pretrain" else set()
    settings = {
        key: value
        for key, value in config.flat().items()
        if (key in SHARED or (key.startswith((f"{task}.", "model.")) and key not in free))
        and not (key in LATER and value == LATER[key])
    }
    layout = {"devices": placement.world_size, "file": placement.ds_config}
    section = config.task_config(task)
    evaluations = {"evaluates": evaluates(section), "neighbours": task == "pretrain" and asks_for_knn(section)}
    return _digest({"task": task, **evaluations, **settings, **layout})


def evaluates(section: TaskConfig) -> bool:
    """Whether a task is evaluated before its end."""
    return section.eval_every > 0 or section.milestones is not None


def work_of(cost: TaskCost) -> float:
    """FLOPs that one step executes."""
    return cost.flops_executed / cost.steps


def _between(points: Sequence[tuple[float, float]], place: float) -> float:
    """The value at ``place`` on the line through the points around it, or through the nearest two. It never falls: a
    larger task that was measured as faster than a smaller one was so by chance."""
    if len(points) == 1:
        return points[0][1]
    points = list(zip([each for each, _ in points], accumulate((value for _, value in points), max), strict=True))
    left, right = next((pair for pair in pairwise(points) if place <= pair[1][0]), tuple(points[-2:]))
    part = (place - left[0]) / (right[0] - left[0])
    return left[1] + part * (right[1] - left[1])


def _file(folder: Path, device: dict[str, Any]) -> Path:
    return folder / f"{_digest(device)}.json"


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]
