"""The run directory: where things lie in it, who may use it, and what it already holds. Free of torch."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from nepa_scale.config.schema import RunConfig
from nepa_scale.data import layout
from nepa_scale.data.preprocessing import BY_DATASET, Standardisation
from nepa_scale.run_dir.status import read_status
from nepa_scale.utils.errors import shortened
from nepa_scale.utils.files import read_json, write_json

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


def changes(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The keys in which settings differ, with both values; empty where they are the same."""
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return shortened(f"{key} ({old.get(key)} there, {new.get(key)} now)" for key in differing)
