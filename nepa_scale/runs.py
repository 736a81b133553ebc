"""The run directory: where things lie in it, who may use it, and what it already holds. Free of torch."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from nepa_scale import overrides
from nepa_scale.config import RunConfig
from nepa_scale.errors import RunError
from nepa_scale.status import read_status

WEIGHTS_NAME = "model.safetensors"


def run_directory(config: RunConfig) -> Path:
    """The folder of the run."""
    return Path(config.run_dir) if config.run_dir else Path("runs") / config.run_id


def check_directory(run_dir: Path, config: RunConfig) -> list[str]:
    """Problems of using ``run_dir`` for this configuration: not a folder, or made by another configuration."""
    blocking = next((path for path in (run_dir, *run_dir.parents) if path.exists() and not path.is_dir()), None)
    if blocking is not None:
        return [f"run_dir={run_dir}: {blocking} is a file; name a folder"]
    recorded = run_dir / "config.yaml"
    if not recorded.is_file():
        return []
    old, new = overrides.load(recorded).identity(), config.identity()
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    changes = ", ".join(f"{key} ({old.get(key)} there, {new.get(key)} now)" for key in differing)
    return [f"run_dir={run_dir}: made by another configuration: {changes}; name another folder"] if differing else []


def check_start(run_dir: Path, config: RunConfig) -> list[str]:
    """Problems of where fine-tuning starts: the pre-trained weights must be there."""
    weights = initial_weights(run_dir, config)
    if weights is None or weights.is_file():
        return []
    if config.init == "pretrain":
        return [f"{weights}: no finished pre-training in this run; run task=pretrain first, or give init=scratch"]
    return [f"init={config.init}: {weights} does not exist; give pretrain, scratch or the folder of a pre-trained run"]


def initial_weights(run_dir: Path, config: RunConfig) -> Path | None:
    """The weights file that the task starts from; None for a start from scratch."""
    if config.task == "pretrain" or config.init == "scratch":
        return None
    origin = run_dir if config.init == "pretrain" else Path(config.init)
    return origin / "pretrain" / WEIGHTS_NAME


def is_finished(task_dir: Path) -> bool:
    """Whether the task has its result and says so."""
    status = read_status(task_dir)
    return status is not None and status.state == "finished" and (task_dir / "result.json").is_file()


@contextmanager
def exclusive(task_dir: Path) -> Iterator[None]:
    """Hold the task's lock; it is released with the process, however that ends.

    Raises:
        RunError: when another process holds it, naming that process.
    """
    task_dir.mkdir(parents=True, exist_ok=True)
    owner = task_dir / ".lock.owner"
    lock = FileLock(task_dir / ".lock", timeout=0)
    try:
        with lock:
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()}")
            yield
            owner.unlink(missing_ok=True)
    except Timeout as error:
        holder = owner.read_text() if owner.is_file() else "another process"
        raise RunError(f"{task_dir}: in use by {holder}; wait for it or stop it") from error
