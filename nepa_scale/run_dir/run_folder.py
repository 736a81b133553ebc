"""The run directory: where things lie in it, and its settings, held against what has begun. Free of torch.

The tasks of a run share ``config.yaml``, which is what the last of them was started with. A task has begun once its
folder holds a record of its data, metrics or weights; then its settings, and those that tasks share, are fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from nepa_scale.config import overrides
from nepa_scale.config.registry import TASKS
from nepa_scale.config.schema import RunConfig
from nepa_scale.data import layout
from nepa_scale.data.preprocessing import BY_DATASET, Standardisation
from nepa_scale.run_dir.status import read_status
from nepa_scale.utils.errors import ConfigError, RunError, changes
from nepa_scale.utils.files import file_in_the_way, read_json, write_json

WEIGHTS_NAME = "model.safetensors"
AVERAGE_NAME = "model_ema.safetensors"
CONFIG_NAME = "config.yaml"
DATA_NAME = "data.json"
PICTURES_NAME = "pictures.png"


def run_directory(config: RunConfig) -> Path:
    """The folder of the run."""
    return Path(config.run_dir) if config.run_dir else Path("runs") / config.run_id


def check_data(task_dir: Path, config: RunConfig) -> list[str]:
    """Problems of continuing a task on a data set that is no longer the one it began with."""
    recorded = task_dir / DATA_NAME
    if not recorded.is_file():
        return []
    section = config.task_config()
    old, new = read_json(recorded), _data_identity(config)
    differing = [key for key in old if old[key] != new.get(key)]
    if not differing:
        return []
    return [
        f"{task_dir}: began on a data set '{section.dataset}' with other {' and '.join(differing)};"
        " bring that one back, or name another run_dir"
    ]


def record_data(task_dir: Path, config: RunConfig) -> None:
    """Note what the data set of a task holds, for ``check_data`` when it continues."""
    write_json(task_dir / DATA_NAME, _data_identity(config))


def _data_identity(config: RunConfig) -> dict[str, Any]:
    """What a data set holds and, where images are standardised by its statistics, these."""
    where = Path(config.data.root), config.task_config().dataset
    identity = layout.identity(*where)
    if config.data.mean != BY_DATASET or layout.is_unwritten_embedded(*where):
        return identity
    standard = layout.standardisation(*where, config.data.mean, config.data.std)
    return identity | {"mean": list(standard.mean), "std": list(standard.std)}


def standardisation(config: RunConfig, task: str, task_dir: Path) -> Standardisation:
    """How ``task`` standardised its images, by its own record or else by what its data set says now.

    Raises ``UserError`` where neither tells.
    """
    if config.data.mean == BY_DATASET:
        with suppress(OSError, ValueError, KeyError, TypeError):
            noted = read_json(task_dir / DATA_NAME)
            return Standardisation(tuple(noted["mean"]), tuple(noted["std"]))
    data = config.data
    return layout.standardisation(Path(data.root), config.task_config(task).dataset, data.mean, data.std)


def pretrain_directory(run_dir: Path, config: RunConfig) -> Path:
    """The folder of the pre-training that this run starts from: its own, or one that it shares."""
    return Path(config.pretrain_dir) if config.pretrain_dir else run_dir / "pretrain"


def is_finished(task_dir: Path) -> bool:
    """Whether the task has its result and says so."""
    status = read_status(task_dir)
    return status is not None and status.state == "finished" and (task_dir / "result.json").is_file()


LOCK_NAME = ".config.yaml.lock"
PER_COMMAND = ("task", "run_dir", "dry_run", "force")  # said anew by every command
MARKS = (DATA_NAME, "metrics.jsonl", WEIGHTS_NAME)  # any of them in a task's folder: it has begun


def configure(words: Sequence[str]) -> RunConfig:
    """The checked configuration of a command line; what it leaves open is as the run folder that it names says.

    Raises:
        ConfigError: with every problem found.
    """
    pairs = overrides.read_words(words)
    problems: list[str] = []
    given = overrides.with_files(pairs, problems)
    run_dir = dict(given).get("run_dir", "null")
    path = Path(run_dir) / CONFIG_NAME
    if run_dir == "null" or not path.is_file():
        return overrides.build_read(given, problems)
    recorded: overrides.Pairs = []
    if not any(key == "config" and Path(value) == path for key, value in pairs):
        recorded = [pair for pair in overrides.read_pairs(path) if pair[0] not in PER_COMMAND]
    return overrides.build_read(given, problems, recorded=recorded, begun=begun_tasks(path.parent))


def begun_tasks(run_dir: Path) -> tuple[str, ...]:
    """The tasks that have begun in a run folder."""
    return tuple(task for task in TASKS if any((run_dir / task / mark).exists() for mark in MARKS))


def check_directory(run_dir: Path, config: RunConfig) -> list[str]:
    """Problems of using ``run_dir`` for this configuration: not a folder, or its tasks began with other settings.

    A folder that is named by its ``run_id`` is for these settings alone, begun or not.
    """
    blocking = file_in_the_way(run_dir)
    if blocking is not None:
        return [f"run_dir={run_dir}: {blocking} is a file; name a folder"]
    if not (run_dir / CONFIG_NAME).is_file():
        return []
    there, begun = overrides.load(run_dir / CONFIG_NAME), begun_tasks(run_dir)
    if run_dir.name == there.run_id:
        differing = changes(there.identity(), config.identity())
        made = "made by another configuration"
    else:
        differing = changes(there.identity(begun), config.identity(begun)) if begun else ""
        made = f"{' and '.join(begun)} began with other settings"
    return [f"run_dir={run_dir}: {made}: {differing}; name another folder"] if differing else []


def begin(words: Sequence[str], run_dir: Path) -> RunConfig:
    """Put on record that the task of a command line begins in its ``run_dir``, and with which settings; returns these.

    Another task of the run may begin at the same moment, so that the folder is read and written under a lock.

    Raises:
        ConfigError: where other tasks have begun with other settings since the command was checked.
        RunError: when the folder cannot be written to.
    """
    try:
        with FileLock(run_dir / LOCK_NAME):
            config = configure(words)
            problems = check_directory(run_dir, config)
            if problems:
                raise ConfigError(problems)
            path = run_dir / CONFIG_NAME
            if not path.is_file() or _lasting(overrides.load(path)) != _lasting(config):
                overrides.save(config, path)
            record_data(run_dir / config.task, config)
    except OSError as error:
        raise RunError(f"{run_dir}: cannot be written to ({error.strerror}); name another run_dir") from error
    return config


def _lasting(config: RunConfig) -> dict[str, Any]:
    return {key: value for key, value in config.flat().items() if key not in PER_COMMAND}
