"""A plan as tables: a line for each run, totals, how tasks are placed on devices, what estimates are based on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from nepa_scale.config import learning_rate
from nepa_scale.config.registry import PRETRAIN
from nepa_scale.run_dir.status import read_status
from sweeps.follow.display import table
from sweeps.jobs.jobs import Job, makespan
from sweeps.plan.feasibility import outlasts
from sweeps.plan.grids import RunSpec
from sweeps.plan.machine import local_slots, world_size
from sweeps.plan.plan import Plan, PlannedRun, PlannedTask, count_text, duration_text, memory_text, run_dir, run_name
from sweeps.settings.schema import Cluster, LocalSettings, SlurmSettings
from sweeps.slurm.arranging import Pack, arranged

GAP = 2
HOUR = 3600
NOTES = (
    "batch: images at once x accumulated x devices; ZeRO 1 r: with activation checkpointing",
    "of a run: memory, ZeRO and batch of its task that needs most memory; unique: different images",
)
MOST_LINES = 40

Tasks = Sequence[PlannedTask]


@dataclass(frozen=True)
class Column:
    """One quantity of every run. In a narrow terminal columns of high ``rank`` are left out first, and rank 0 never."""

    heading: str
    rank: int
    cells: tuple[str, ...]

    @property
    def width(self) -> int:
        """Width in characters."""
        return max(map(len, (self.heading, *self.cells)))


def show(plan: Plan, todo: Sequence[Job], study_dir: Path, cluster: Cluster, console: Console) -> None:
    """Print ``plan`` with its totals; ``todo`` are the tasks still to do."""
    dropped = ["", dropped_table(plan)] if plan.dropped else []
    console.print(plan_table(plan, study_dir, console.width), "", layout_table(plan), *dropped)
    basis = (f"basis: {quantity}: {text}" for quantity, text in plan.basis.items())
    for line in (*NOTES, *total_lines(plan, todo, cluster), *basis, f"study directory: {study_dir}"):
        console.print(line, soft_wrap=True)


def total_lines(plan: Plan, todo: Sequence[Job], cluster: Cluster) -> list[str]:
    """The cost of all tasks, and of those still to do."""
    tasks = {f"{run.run_id}/{name}": task for run in plan.runs for name, task in run.tasks.items()}
    flops = sum(task.flops_to_do for task in tasks.values())
    lines = [f"to do: {len(todo)} of {len(tasks)} tasks; all tasks together: {flops:.3g} FLOPs"]
    saved = sum(task.flops_inherited for task in tasks.values())
    if saved:
        separate = sum(run.tasks[PRETRAIN.name].flops for run in plan.runs if PRETRAIN.name in run.tasks)
        share = f"{(separate - saved) / separate:.0%} of {separate:.3g} for separate runs"
        lines.append(f"branching: pre-training takes {separate - saved:.3g} FLOPs, {share}")
    times = {job.key: tasks[job.key].seconds for job in todo}
    seconds = {key: time for key, time in times.items() if time is not None}
    if len(seconds) == len(times):
        lines.append(f"time: {duration_text(sum(seconds.values()))} of work{_wall_clock(cluster, todo, seconds)}")
    if isinstance(cluster, SlurmSettings) and cluster.devices != "equal":
        lines += _device_lines(list(tasks.values()), todo, cluster, seconds)
    return lines


def _device_lines(tasks: Tasks, todo: Sequence[Job], cluster: SlurmSettings, seconds: Mapping[str, float]) -> list[str]:
    """What it saves that each task has the devices that suit it, and which tasks share a node."""
    lines = []
    own, equal = device_seconds(tasks), [task.equal_device_seconds for task in tasks]
    if own is not None and None not in equal:
        before = sum(filter(None, equal))
        lines.append(
            f"devices={cluster.devices}: {own / HOUR:.3g} device-hours, {abs(1 - own / before):.0%}"
            f" {'less' if own <= before else 'more'} than the {before / HOUR:.3g} of {world_size(cluster)} devices for"
            " every task"
        )
    packs = [unit for unit in arranged(todo, {}, len(todo)) if isinstance(unit, Pack)]
    return [*lines, *(_pack_lines(packs, cluster, seconds if len(seconds) == len(todo) else None) if packs else [])]


def _pack_lines(packs: Sequence[Pack], cluster: SlurmSettings, seconds: Mapping[str, float] | None) -> list[str]:
    """How many tasks share nodes, and whether the longest of their jobs is too long; ``seconds``: {task: its time}."""
    count = sum(len(pack.jobs) for pack in packs)
    shared = f"{count} tasks share {'1 node' if len(packs) == 1 else f'{len(packs)} nodes'}"
    if seconds is None:
        return [shared]
    idle = sum(pack.idle_device_seconds(seconds) for pack in packs)
    took, longest = max(((makespan(pack.jobs, seconds, pack.width), pack) for pack in packs), key=lambda each: each[0])
    reason = outlasts(took, longest.resources.timeout_min, cluster)
    return [
        f"{shared}; devices that wait there for the last task: {idle / HOUR:.3g} device-hours",
        *([f"the longest of these nodes' jobs {reason}, or give cluster.pack=false"] if reason else []),
    ]


def _wall_clock(cluster: Cluster, todo: Sequence[Job], seconds: dict[str, float]) -> str:
    if not isinstance(cluster, LocalSettings):
        return f", {duration_text(makespan(todo, seconds, max(1, len(todo))))} if all start when they can"
    slots = local_slots(cluster).count
    where = f"{slots} slot{'s' if slots > 1 else ''}"
    return f", about {duration_text(makespan(todo, seconds, slots))} on {where}"


def plan_table(plan: Plan, study_dir: Path, width: int) -> Table:
    """The runs of ``plan`` with as many columns as fit; those with equal settings but seed and tuning share a line."""
    lines = list(_by_label(plan.runs).values())
    names = [_name(runs) for runs in lines]
    groups, everything = [_tasks(runs) for runs in lines], _tasks(plan.runs)
    columns = [
        Column(heading, rank, (*map(text, groups), total(everything) if total is not None else ""))
        for heading, rank, text, total in QUANTITIES
    ]
    columns.append(Column("state", 3, (*(progress_of(runs, study_dir) for runs in lines), "")))
    shown = fitting(columns, width - max(map(len, names)))
    title = f"{plan.study} study, {plan.grid} grid: {len(plan.runs)} runs"
    rows = table(title, [column.heading for column in shown])
    for row, name in enumerate([*names, "all"]):
        rows.add_row(name, *(column.cells[row] for column in shown), end_section=row == len(lines) - 1)
    return rows


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """The ``columns`` of lowest rank that fit in ``width``, in their order; those of rank 0 always stay."""
    shown = list(columns)
    while sum(column.width + GAP for column in shown) > width and any(column.rank for column in shown):
        shown.remove(max(shown, key=lambda column: column.rank))
    return shown


def layout_table(plan: Plan) -> Table:
    """How tasks are placed on devices; tasks that are placed alike share a line."""
    alike: dict[tuple[str, ...], list[PlannedTask]] = {}
    for run in plan.runs:
        for name, task in run.tasks.items():
            alike.setdefault((name, zero_text(task), batch_text(task)), []).append(task)
    rows = table("how tasks lie on devices", ("number", "ZeRO", "batch", "memory", "time"), first="task")
    for (name, zero, batch), tasks in alike.items():
        seconds = [task.seconds for task in tasks if task.seconds is not None]
        sizes = [task.memory_bytes for task in tasks]
        rows.add_row(
            name,
            str(len(tasks)),
            zero,
            batch,
            _range(memory_text, sizes),
            _range(duration_text, seconds) if seconds else "?",
        )
    return rows


def dropped_table(plan: Plan) -> Table:
    """The points of the grid that will not be run, each with its reason."""
    rows = Table(title="not run", title_justify="left", box=None, pad_edge=False, show_header=False)
    rows.add_column("run", no_wrap=True)
    rows.add_column("reason", overflow="fold")
    for point in plan.dropped:
        rows.add_row(run_name(point), point.reason)
    return rows


def zero_text(task: PlannedTask) -> str:
    """The ZeRO stage, with an r under activation checkpointing."""
    if task.layout is None:
        return ""
    return f"{task.layout.zero_stage}{' r' if task.layout.activation_checkpointing else ''}"


def batch_text(task: PlannedTask) -> str:
    """Micro-batch x accumulation x devices."""
    layout = task.layout
    return "" if layout is None else f"{layout.micro_batch_size}x{layout.accumulation}x{layout.devices}"


def device_seconds(tasks: Iterable[PlannedTask]) -> float | None:
    """Time of all devices together; None where that of any task is not known."""
    times = [task.device_seconds for task in tasks]
    return None if None in times else sum(filter(None, times))


def _by_label(runs: Sequence[PlannedRun]) -> dict[tuple[object, ...], list[PlannedRun]]:
    """The runs, grouped by everything but seed and tuned settings."""
    alike: dict[tuple[object, ...], list[PlannedRun]] = {}
    for run in runs:
        alike.setdefault((run.label, run.init, *run.tuned, next(iter(run.tasks.values()))), []).append(run)
    return alike


def _name(runs: Sequence[PlannedRun]) -> str:
    tries = len({str(run.tuned) for run in runs})
    seeds = f" ({len(runs) // tries} seeds)" if len(runs) > tries else ""
    values = [f"{key}={value}" for key, value in runs[0].tuned.items()]
    tuned = values if tries == 1 else [f"{tries} of {' x '.join(runs[0].tuned)}"]
    return ", ".join([run_name(runs[0]) + seeds, *tuned])


def progress_of(runs: Sequence[PlannedRun], study_dir: Path) -> str:
    """How many of the tasks are finished."""
    states = [read_status(run_dir(study_dir, run.run_id) / task) for run in runs for task in run.tasks]
    finished = sum(status is not None and status.state == "finished" for status in states)
    if finished == len(states):
        return "finished"
    return f"{finished}/{len(states)} finished" if finished else "to do"


def _tasks(runs: Iterable[PlannedRun]) -> list[PlannedTask]:
    return [task for run in runs for task in run.tasks.values()]


def _unique(tasks: Tasks) -> str:
    """The number of different images. Subsets of a data set are nested, so the largest one counts."""
    largest: dict[str, int] = {}
    for task in tasks:
        largest[task.dataset] = max(largest.get(task.dataset, 0), task.unique_images)
    return count_text(sum(largest.values()))


def _largest(tasks: Tasks) -> PlannedTask:
    return max(tasks, key=lambda task: task.memory_bytes)


def _time(tasks: Tasks) -> str:
    seconds = [task.seconds for task in tasks]
    return duration_text(None if None in seconds else sum(filter(None, seconds)))


def _device_hours(tasks: Tasks) -> str:
    seconds = device_seconds(tasks)
    return "?" if seconds is None else f"{seconds / HOUR:.3g}"


def _images(tasks: Tasks) -> str:
    return count_text(sum(task.images for task in tasks))


def _flops(tasks: Tasks) -> str:
    return _flops_text(sum(task.flops for task in tasks))


def _flops_to_do(tasks: Tasks) -> str:
    return _flops_text(sum(task.flops_to_do for task in tasks))


def _flops_text(number: int) -> str:
    return f"{number:.1e}".replace("+", "")


def _memory(tasks: Tasks) -> str:
    return memory_text(_largest(tasks).memory_bytes)


def _storage(tasks: Tasks) -> str:
    return memory_text(sum(task.storage_bytes for task in tasks))


#: Columns of a plan: heading, rank, text of the tasks of a line, and text of all tasks together if there is one.
#: FLOPs of a line are of runs of that length, as results have them; all together are what will be spent, in which what
#: branches share is counted once.
QUANTITIES: tuple[tuple[str, int, Callable[[Tasks], str], Callable[[Tasks], str] | None], ...] = (
    ("N", 0, lambda tasks: count_text(tasks[0].params_backbone), None),
    ("images", 2, _images, _images),
    ("unique", 8, _unique, _unique),
    ("FLOPs", 0, _flops, _flops_to_do),
    ("ZeRO", 6, lambda tasks: zero_text(_largest(tasks)), None),
    ("batch", 7, lambda tasks: batch_text(_largest(tasks)), None),
    ("memory", 1, _memory, _memory),
    ("time", 0, _time, _time),
    ("device-h", 4, _device_hours, _device_hours),
    ("storage", 5, _storage, _storage),
)


def _range(text: Callable[[float], str], values: Sequence[float]) -> str:
    """Smallest to largest, or one text where both read the same."""
    least, most = text(min(values)), text(max(values))
    return least if least == most else f"{least} to {most}"


def learning_rates(run_specs: Iterable[RunSpec]) -> list[str]:
    """A line for every pre-training whose peak learning rate follows the model's size, at most ``MOST_LINES``."""
    described = {
        run_spec.label: learning_rate.describe(run_spec.config)
        for run_spec in run_specs
        if PRETRAIN.name in run_spec.tasks
    }
    lines = [f"learning rate of {label}: {rates}" for label, rates in described.items() if rates is not None]
    left = len(lines) - MOST_LINES
    return lines if left <= 0 else [*lines[:MOST_LINES], f"... and {left} more runs whose rates follow the rule"]
