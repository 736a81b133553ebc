"""The plan of a study: its runs with their costs; and the files that record it, ``plan.json`` and ``cluster.json``."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nepa_scale.config.registry import PRETRAIN, TASKS
from nepa_scale.utils.errors import UserError
from nepa_scale.utils.files import file_in_the_way, read_json, write_json
from sweeps.plan.machine import Resources
from sweeps.settings.schema import KINDS, Cluster

SCHEMA = 1
PLAN_NAME = "plan.json"
CLUSTER_NAME = "cluster.json"


@dataclass(frozen=True)
class Layout:
    """How a task lies on its devices: each takes ``micro_batch_size`` images ``accumulation`` times for a step."""

    devices: int
    zero_stage: int
    micro_batch_size: int
    accumulation: int
    activation_checkpointing: bool


@dataclass(frozen=True)
class PlannedTask:
    """What one task of a run will cost; ``seconds`` is None where the speed of the devices is not known.

    Fields with a default are missing from the plans of earlier versions.
    """

    params_total: int
    params_backbone: int
    images: int
    flops: int
    memory_bytes: int
    seconds: float | None
    resources: Resources = field(default_factory=Resources)
    """What its job asks for."""
    flops_inherited: int = 0
    """The part of ``flops`` that is done by the run from which this one branches off."""
    steps: int = 0
    dataset: str = ""
    unique_images: int = 0
    """How many of ``images`` are different."""
    layout: Layout | None = None
    calibrated: bool = False
    """Whether ``seconds`` rest on measurements of tasks like this one."""
    storage_bytes: int = 0
    """What the finished task leaves on disk: checkpoints and weights."""
    equal_device_seconds: float | None = None
    """Time of all its devices if it had as many as ``devices=equal`` gives every task; None where it has those."""

    @property
    def flops_to_do(self) -> int:
        """FLOPs that this task itself will take."""
        return self.flops - self.flops_inherited

    @property
    def device_seconds(self) -> float | None:
        """Time of all its devices together; None where it is not known."""
        return None if self.seconds is None else self.seconds * (self.layout.devices if self.layout else 1)


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study directory, as ``RunSpec``; equal ``pretraining`` stands for equal pre-training."""

    run_id: str
    label: str
    init: str
    values: dict[str, Any]
    tasks: dict[str, PlannedTask]
    pretraining: str | None = None
    pretrained_by: str | None = None
    branched_from: str | None = None
    tuned: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Label and, where they vary, seed and what is tuned."""
        return self._named(self.tuned)

    def name_for(self, task: str) -> str:
        """The name in front of one of its tasks, with the tuned settings of that task only."""
        return self._named({key: value for key, value in self.tuned.items() if key.startswith(f"{task}.")})

    def _named(self, tuned: dict[str, Any]) -> str:
        seed = [f"seed {self.values['seed']}"] if "seed" in self.values else []
        return " ".join([self.label, *seed, *(f"{key}={value}" for key, value in tuned.items())])


@dataclass(frozen=True)
class Dropped:
    """A point of a grid that will not be run, and why."""

    label: str
    init: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """The runs of a study directory."""

    study: str
    grid: str
    axes: tuple[str, ...]
    runs: tuple[PlannedRun, ...]
    basis: dict[str, str] = field(default_factory=dict)
    """{quantity: what its estimates are based on}."""
    dropped: tuple[Dropped, ...] = ()
    about: str | None = None
    """``study.about``, which the report shows."""

    @property
    def names(self) -> dict[str, str]:
        """{run_id: name of the run in messages}, with the run_id where names are equal."""
        alike = Counter((run.name, run.init) for run in self.runs)
        return {
            run.run_id: run.name if alike[run.name, run.init] == 1 else f"{run.name} ({run.run_id})"
            for run in self.runs
        }

    @property
    def titles(self) -> dict[str, str]:
        """{run_id/task: name of the task in messages}."""
        control, names = {"pretrain": "", "scratch": " from scratch"}, self.names
        return {
            f"{run.run_id}/{task}": (
                f"{run.name_for(task)}{names[run.run_id].removeprefix(run.name)} {task}"
                f"{control.get(run.init, f' from {run.init}')}"
            )
            for run in self.runs
            for task in run.tasks
        }


def merge(earlier: Plan | None, plan: Plan) -> Plan:
    """The runs of an ``earlier`` plan of the same directory, then the new ones of ``plan``.

    A run of both has the tasks of both.
    """
    if earlier is None:
        return plan
    new = {run.run_id: run for run in plan.runs}
    kept = tuple(_united(run, new.pop(run.run_id)) if run.run_id in new else run for run in earlier.runs)
    runs = (*kept, *new.values())
    planned = {(name, run.init) for run in runs for name in (run.label, run.name)}
    dropped = {(point.label, point.init): point for point in (*earlier.dropped, *plan.dropped)}
    return dataclasses.replace(
        plan,
        axes=tuple(dict.fromkeys((*earlier.axes, *plan.axes))),
        runs=runs,
        dropped=tuple(point for name, point in dropped.items() if name not in planned),
        about=plan.about or earlier.about,
    )


def _united(earlier: PlannedRun, run: PlannedRun) -> PlannedRun:
    """``run`` with those tasks that only the ``earlier`` plan has; without its pre-training where another does that.

    Where only the ``earlier`` plan tunes a task of it, it stays with the other tries of that.
    """
    tasks = {**earlier.tasks, **run.tasks}
    if run.pretrained_by is not None:
        tasks.pop(PRETRAIN.name, None)
    added = tasks.keys() - run.tasks.keys()
    tuned = {key: value for key, value in earlier.tuned.items() if key.split(".")[0] in added}
    ordered = {task: tasks[task] for task in TASKS if task in tasks}
    arm = earlier if earlier.tuned and not run.tuned else run
    return dataclasses.replace(
        run,
        label=arm.label,
        values={**run.values, **arm.values},
        tasks=ordered,
        tuned={**tuned, **run.tuned},
    )


def run_name(run: PlannedRun | Dropped) -> str:
    """The label, and the start of fine-tuning where that is not the run's own pre-training."""
    return run.label + start_text(run)


def start_text(run: PlannedRun | Dropped) -> str:
    """The start of fine-tuning, to follow a label; empty where that is the run's own pre-training."""
    return {"pretrain": "", "scratch": " scratch"}.get(run.init, f" from {run.init}")


def save(plan: Plan, study_dir: Path) -> None:
    """Write the plan file of ``study_dir``."""
    write_json(study_dir / PLAN_NAME, {"schema": SCHEMA, **dataclasses.asdict(plan)})


def load(study_dir: Path) -> Plan | None:
    """Read the plan file of ``study_dir``; None without one. Raises ``UserError`` when it cannot be read."""
    path, blocking = study_dir / PLAN_NAME, file_in_the_way(study_dir)
    if blocking is not None:
        raise UserError(f"{study_dir}: '{blocking}' is a file; name the folder of a study")
    try:
        content = read_json(path)
        if content["schema"] != SCHEMA:
            raise UserError(
                f"{path}: schema {content['schema']} was written by another version; this one reads {SCHEMA}"
            )
        return Plan(
            study=content["study"],
            grid=content["grid"],
            axes=tuple(content["axes"]),
            runs=tuple(map(_read_run, content["runs"])),
            basis=content.get("basis", {}),
            dropped=tuple(Dropped(**point) for point in content.get("dropped", ())),
            about=content.get("about"),
        )
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not a plan file ({type(error).__name__}: {error}); move it away or restore it"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def load_study(study_dir: Path) -> Plan:
    """The plan of the study in ``study_dir``. Raises ``UserError`` where there is none."""
    planned = load(study_dir)
    if planned is None:
        raise UserError(f"{study_dir}: no study here ({PLAN_NAME} is missing); `nepa-launch` makes one")
    return planned


def _read_run(content: dict[str, Any]) -> PlannedRun:
    return PlannedRun(**{**content, "tasks": {name: _read_task(task) for name, task in content["tasks"].items()}})


def _read_task(content: dict[str, Any]) -> PlannedTask:
    layout = content.get("layout")
    read = {
        "resources": Resources(**content.get("resources", {})),
        "layout": Layout(**layout) if layout is not None else None,
    }
    return PlannedTask(**{**content, **read})


def save_cluster(cluster: Cluster, study_dir: Path) -> None:
    """Record ``cluster`` as that of the study."""
    write_json(study_dir / CLUSTER_NAME, dataclasses.asdict(cluster))


def read_cluster(study_dir: Path) -> Cluster:
    """The study's cluster. Raises ``UserError`` where none is recorded, or what is cannot be read."""
    path = study_dir / CLUSTER_NAME
    try:
        content = read_json(path)
        kind = KINDS[content["kind"]]
        known = {item.name for item in dataclasses.fields(kind)}
        return kind(**{key: value for key, value in content.items() if key in known})
    except FileNotFoundError as error:
        raise UserError(f"{path}: not there; launch the study once more with `nepa-launch`") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a cluster file ({error}); the next launch writes it anew") from error


def run_dir(study_dir: Path, run_id: str) -> Path:
    """The folder of one run."""
    return study_dir / "runs" / run_id


def task_dir(study_dir: Path, key: str) -> Path:
    """The folder of the task ``key``, run_id/task."""
    return study_dir / "runs" / key


def count_text(number: float) -> str:
    """A count with three digits: 950, 81.3k, 1.12M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{unit}"
    return f"{number:g}"


def memory_text(size: float) -> str:
    """Bytes in MiB or GiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def duration_text(seconds: float | None) -> str:
    """A time: 42 s, 3.5 min, 12 min, 1.2 h, 3.1 d; ? where it is not known."""
    if seconds is None:
        return "?"
    for limit, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= limit:
            return f"{seconds / limit:{'.1f' if seconds < 10 * limit else '.0f'}} {unit}"
    return f"{seconds:.0f} s"
