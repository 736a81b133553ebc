"""What a launch is made of: the chosen grid, study and cluster, and the run settings typed beside them.

The dataclasses give every key of ``conf/`` its type and meaning.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from nepa_scale.config.registry import PRETRAIN, TASKS, finetuned
from nepa_scale.config.schema import RunConfig, walk
from nepa_scale.config.task_settings import LIMITS
from nepa_scale.config.validate import SUBSET_KEYS

GROUPS = ("grid", "study", "cluster")


def _of_tasks(name: str) -> str:
    """Why a setting of "the task to do now" is none of a launch: a run from scratch begins with another one."""
    return f"say which task's: {', '.join(f'{task}.{name}' for task in TASKS[:-1])} or {TASKS[-1]}.{name}"


SUBSETS = {f"data.{name}": _of_tasks(name) for name in SUBSET_KEYS}
RESERVED = {
    **SUBSETS,
    "task": "the launcher runs every task of a run",
    "run_dir": "the launcher names the folders of runs; study_dir=DIR says where they go",
    "data": _of_tasks("dataset"),
    "pretrain_dir": "the launcher shares pre-training by itself; init=DIR starts from finished weights",
}
RULES = ("isoflop",)
LENGTHS = ("pretrain.num_images", "pretrain.steps")
"""The axes whose values are lengths of pre-training, which share one long run under ``branch=true``."""
DEVICES = ("equal", "auto", "fewest")
MOST_POINTS = 5_000
"""A grid of more points is refused: planning it would take minutes, and it is probably a mistake."""
RUN_LIMITS = {key: {name: meta[name] for name in LIMITS if name in meta} for key, _, meta in walk(RunConfig())}
SIZES = RUN_LIMITS["model.size"]


def option(meaning: str, default: Any = None, **limits: Any) -> Any:
    """A key of a launch with the text that ``--help`` shows, and its limits as in ``config.schema.setting``.

    Those of a list hold for each value. A ``default`` that can be called makes the value of each launch.
    """
    given = {"default_factory": default} if callable(default) else {"default": default}
    return field(metadata={"help": meaning, **limits}, **given)


@dataclass(kw_only=True)
class GridSettings:
    """Which settings vary."""

    axes: dict[str, Any] = option(
        "run settings that vary, each with its list of values; every combination is a run", dict
    )
    points: dict[str, Any] = option(
        "named points, each with its run settings (seed: one or a list), times those of axes and zip", dict
    )
    zip: dict[str, Any] = option(
        "run settings that vary together: the first values are a point, the second ones the next", dict
    )
    tuned: dict[str, Any] = option(
        "settings of fine-tuning that this grid tries in every arm, as those of study.tuned", dict
    )
    rule: str | None = option(
        "points that are worked out: isoflop = every size at every budget of FLOPs", choices=RULES
    )
    set: dict[str, Any] = option("run settings that this grid fixes", dict)


@dataclass(kw_only=True)
class StudySettings:
    """What is trained on what, for how long."""

    name: str = option("name of the study", "study")
    sizes: list[str] = option("rungs of the size ladder, for grids over model size", list, **SIZES)
    data_sizes: list[int] = option(
        "numbers of pre-training images, for grids over data size", list, **RUN_LIMITS["pretrain.num_images"]
    )
    epochs: list[float] = option(
        "lengths of pre-training, for grids over its length", list, **RUN_LIMITS["pretrain.epochs"]
    )
    budgets: list[float] = option("FLOPs of one pre-training, for grids of equal compute", list, above=0, high=1e30)
    learning_rates: list[float] = option(
        "values of pretrain.base_lr, for grids over it", list, **RUN_LIMITS["pretrain.base_lr"]
    )
    lr_sizes: list[str] = option("rungs of the size ladder whose learning rate is searched", list, **SIZES)
    batch_sizes: list[int] = option(
        "images per step of pre-training, for grids over it", list, **RUN_LIMITS["pretrain.batch_size"]
    )
    patch_sizes: list[int] = option(
        "sides of a patch in pixels, for grids over it", list, **RUN_LIMITS["model.patch_size"]
    )
    resolutions: list[int] = option(
        "sides of the images in pixels, for grids over resolution", list, **RUN_LIMITS["pretrain.image_size"]
    )
    label_fractions: list[float] = option(
        "parts of the labelled images, for grids over labels", list, **RUN_LIMITS["classify.fraction"]
    )
    label_steps: int | None = option("steps of each probe and fine-tuning in grids over labels; null = epochs", low=1)
    finetune_rates: list[float] = option(
        "values of classify.base_lr, for grids over it", list, **RUN_LIMITS["classify.base_lr"]
    )
    tuning_images: int = option(
        "classify.tuning_images of grids over rates of fine-tuning", 500, **RUN_LIMITS["classify.tuning_images"]
    )
    tuned: dict[str, Any] = option(
        "settings of fine-tuning, each with its list of values: every arm of every point is tried at each, and the"
        " report takes the one that is best on the tuning images",
        dict,
    )
    base_size: str = option("rung of the size ladder that grids over anything else train", "nano", **SIZES)
    tasks: list[str] = option(
        "tasks of every point", lambda: [PRETRAIN.name, *(task.name for task in finetuned())], choices=TASKS
    )
    scratch_control: bool = option("add to every point the same fine-tuning from random weights", True)
    run: dict[str, Any] = option("run settings of every point", dict)
    about: str | None = option("what the study is and is not, in your words: shown on its report")


@dataclass(kw_only=True)
class ClusterSettings:
    """What tasks run on, as far as estimates depend on it."""

    kind: str = "local"
    flops_per_second: float | None = option(
        "FLOP/s of one process; null = measured where processes run on CPU cores", low=1, high=1e20
    )
    utilisation: float = option("fraction of flops_per_second that training reaches", 1.0, low=1e-6, high=1)
    device: str | None = option("GPU that counts in place of the two above: a100, h100, h200, b200, mi300x, ...")
    mfu: float | None = option(
        "fraction of the peak of device that training reaches; null = by the performance model", low=1e-6, high=1
    )
    startup_seconds: float = option("time a task takes before its first step", 0.0, low=0, high=10**6)


@dataclass(kw_only=True)
class LocalSettings(ClusterSettings):
    """This machine."""

    slots: int | None = option(
        "tasks that run at once; null = one per GPU, or cores / threads_per_slot without GPUs", low=1, high=4096
    )
    threads_per_slot: int | None = option(
        "CPU threads of one task; null = cores / slots (1 where slots is null too)", low=1, high=4096
    )
    processes_per_task: int = option(
        "processes (ranks) that work together on one task, one per GPU", 1, low=1, high=4096
    )


@dataclass(kw_only=True)
class SlurmSettings(ClusterSettings):
    """A Slurm cluster, with what each task asks of it."""

    kind: str = "slurm"
    partition: str | None = option("partition; null = the cluster's default")
    account: str | None = option("account; null = the user's default")
    nodes: int = option("nodes per task", 1, low=1, high=10**5)
    tasks_per_node: int = option("processes per node, one per GPU", 1, low=1, high=4096)
    gpus_per_node: int = option("GPUs per node", 0, low=0, high=4096)
    cpus_per_task: int = option("cores per process", 1, low=1, high=4096)
    mem_gb: int | None = option("memory per node in GB; null = the partition's default", low=1, high=10**6)
    max_nodes: int | None = option(
        "nodes that a task too large for `nodes` may take, which are doubled; null = nodes", low=1, high=10**5
    )
    devices: str = option(
        "processes of a task: equal = nodes x tasks_per_node for all; auto = as many as work efficiently; fewest = no"
        " more than hold it",
        "equal",
        choices=DEVICES,
    )
    efficiency: float = option(
        "devices=auto: the part of its speed that a device must keep as devices are added, as the plan models it",
        0.8,
        low=0.01,
        high=1,
    )
    wall_hours: float | None = option(
        "devices=auto: give a task the fewest devices that end it in so many hours; null = as many as are efficient",
        above=0,
    )
    pack: bool = option("tasks that need a part of a node share one in one job; false = each is a job", True)
    timeout_min: int = option("time limit of one job in minutes, at most", 60, low=1, high=10**7)
    time_margin: float | None = option(
        "limit of each task: its estimated time times this; null = timeout_min for all", low=1e-3, high=1000
    )
    save_seconds: int = option(
        "how long before the time limit a job is told to save and start again", 90, low=1, high=10**6
    )
    max_requeues: int = option(
        "how often a job may start again after preemption, its time limit or a lost node", 10, low=0, high=10**6
    )
    array_parallelism: int | None = option(
        "jobs of one array that may run at once; null = as many as there is room for", low=1, high=10**6
    )
    sbatch: dict[str, Any] = option(
        "further options of sbatch by their names: qos, constraint, gres, exclusive, mail-user, ...", dict
    )
    setup: list[str] = option("shell commands of a job before its processes start: modules, conda, ...", list)
    srun_args: list[str] = option("further arguments of the srun that starts the processes", list)
    env: dict[str, Any] = option("variables of the job's environment", dict)
    python: str | None = option("command that starts Python, e.g. in a container; null = this Python")


Cluster = LocalSettings | SlurmSettings
KINDS: dict[str, type[Cluster]] = {"local": LocalSettings, "slurm": SlurmSettings}


@dataclass(kw_only=True)
class BudgetSettings:
    """What the unfinished tasks of a launch may cost together."""

    device_hours: float | None = option("hours of all devices together; null = any", above=0)
    flops: float | None = option("FLOPs of training; null = any", above=0, high=1e30)
    over: str = option(
        "a plan that costs more: refuse it, or trim it by its costliest runs", "refuse", choices=("refuse", "trim")
    )


@dataclass(kw_only=True)
class Tree:
    """The composed configuration, as Hydra and the command line fill it."""

    grid: GridSettings = field(default_factory=GridSettings)
    study: StudySettings = field(default_factory=StudySettings)
    cluster: ClusterSettings = field(default_factory=LocalSettings)
    budget: BudgetSettings = field(default_factory=BudgetSettings)
    study_dir: str | None = option("where plan, runs and report go; null = studies/<study>-<grid>")
    dry_run: bool = option("show the plan with its cost and create nothing", False)
    json: bool = option("dry_run=true: print the plan as one JSON document, and nothing else", False)
    print_script: bool = option("cluster=slurm: print the scripts that sbatch would get, and submit nothing", False)
    infeasible: str = option(
        "points that no device can hold, whose batch or budget does not divide, or whose optimum lies outside the"
        " ladder: an error, or skip them",
        "error",
        choices=("error", "skip"),
    )
    predict: bool = option("write down what is expected of the largest runs before they start", False)
    predict_from: str | None = option("predict=true: study directory whose finished runs are fitted; null = this one")
    optimum_from: str | None = option(
        "grid=isoflop: study directory whose finished runs say which budgets have their optimum within the sizes"
    )
    calibrate: bool = option("measure how long such tasks take where they will run, if that is not known yet", False)
    branch: bool = option("one long pre-training serves all lengths of the grid by short decays (wsd)", False)
    only: str = option(
        "which unfinished tasks to start: all, failed, or missing (those that did not fail)",
        "all",
        choices=("all", "failed", "missing"),
    )
    watch: bool | None = option("stay until all is done; null = on this machine, not on Slurm")
    seeds: int | None = option(
        "repeat every point of the grid with so many seeds, from 0; null = as the grid says", low=1, high=MOST_POINTS
    )


def is_launch_key(key: str) -> bool:
    """Whether ``key`` is one of a launch, such as study.sizes, and not a setting of its runs."""
    return key.split(".", maxsplit=1)[0] in {item.name for item in fields(Tree)}


def listed(settings: dict[str, Any]) -> dict[str, list[Any]]:
    """``settings`` that vary, each with its list of values; a value that is no list is the only one."""
    return {key: values if isinstance(values, list) else [values] for key, values in settings.items()}


@dataclass(frozen=True, kw_only=True)
class Launch:
    """The settings of a launch. ``pairs`` are the run settings from the command line and its ``config=`` file."""

    grid_name: str
    grid: GridSettings
    study: StudySettings
    cluster: Cluster
    study_dir: Path
    dry_run: bool
    print_script: bool
    json: bool
    pairs: tuple[tuple[str, str], ...]
    branch: bool
    calibrate: bool
    predict: bool
    predict_from: Path | None
    optimum_from: Path | None
    infeasible: str
    budget: BudgetSettings
    only: str
    watch: bool | None
