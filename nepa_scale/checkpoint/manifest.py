"""The manifest that makes a folder a checkpoint: its files with their hashes, and the run whose state they hold."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nepa_scale.engine.shards import FileRecord, record_of
from nepa_scale.utils.errors import RunError, changes
from nepa_scale.utils.files import read_json, write_json

FORMAT = 1
NAME = "manifest.json"
TAG = re.compile(r"step_(\d{8,})")
LEFTOVER = re.compile(r"step_\d{8,}\.tmp")
FILE = re.compile(r"\w[\w.-]*")


class DamagedError(Exception):
    """A checkpoint is not what its manifest says; the text names the file."""


@dataclass(frozen=True)
class Manifest:
    """The content of ``manifest.json``.

    Attributes:
        step: optimiser steps done.
        images_seen: images that went into them.
        optimizer_steps: updates the optimiser counts, which a skipped step leaves behind ``step``.
        loss_scale: the state of fp16's dynamic loss scale.
        world_size, zero_stage: how the state was spread over ranks.
        settings: the result settings that the task depends on (``RunConfig.identity``).
        versions: of what wrote it.
        files: size and hash of each file.
    """

    step: int
    images_seen: int
    optimizer_steps: int
    loss_scale: dict[str, float]
    world_size: int
    zero_stage: int
    run_id: str
    settings: dict[str, Any]
    versions: dict[str, str]
    files: dict[str, FileRecord]
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """Write it into the folder of a checkpoint."""
        write_json(folder / NAME, dataclasses.asdict(self))


def tag_of(step: int) -> str:
    """The name of a step's checkpoint."""
    return f"step_{step:08d}"


def tags(folder: Path) -> list[Path]:
    """The folders named like checkpoints, oldest first, whatever is in them."""
    folders = [path for path in folder.glob("step_*") if TAG.fullmatch(path.name) and path.is_dir()]
    return sorted(folders, key=lambda path: int(path.name.removeprefix("step_")))


def read(path: Path) -> Manifest:
    """The manifest of a checkpoint, its files being there with the right sizes.

    Raises:
        DamagedError: no complete manifest, or a file missing or of another size.
        RunError: a manifest of another version of this project.
    """
    try:
        content = read_json(path / NAME)
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path / NAME}: {_reason(error)}") from error
    if isinstance(content, dict) and content.get("format") != FORMAT:
        raise RunError(
            f"{path}: written by another version of nepa_scale; continue with that one, or remove the folder"
        )
    try:
        files = {name: FileRecord(**record) for name, record in content["files"].items()}
        manifest = Manifest(**{**content, "files": files})
    except (TypeError, KeyError, AttributeError) as error:
        raise DamagedError(f"{path / NAME}: not a manifest ({error!r})") from error
    for name, record in files.items():
        if not FILE.fullmatch(name):
            raise DamagedError(f"{path / NAME}: names a file {name!r}, which is none of a checkpoint")
        _check_size(path / name, record.size)
    return manifest


def problem_of(path: Path, record: FileRecord) -> str | None:
    """The problem of a file whose content is not that recorded; None if it is."""
    try:
        return None if record_of(path) == record else f"{path}: its content is not what was written (SHA-256 differs)"
    except OSError as error:
        return f"{path}: {_reason(error)}"


def is_complete(path: Path) -> bool:
    """Whether a checkpoint's files are all there with the right sizes."""
    try:
        read(path)
    except (DamagedError, RunError):
        return False
    return True


def check_settings(path: Path, manifest: Manifest, settings: dict[str, Any]) -> None:
    """Raise ``RunError`` naming the keys in which the settings of a checkpoint differ from this run's.

    Older checkpoints list the settings of other tasks as well, which may have changed since.
    """
    new = comparable(settings)
    sections = {key.partition(".")[0] for key in new}
    old = {key: value for key, value in manifest.settings.items() if key.partition(".")[0] in sections}
    if differing := changes(old, new):
        raise RunError(f"{path}: a checkpoint of another run: {differing}; remove the folder, or name another run_dir")


def comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as they come back from a JSON file."""
    content: dict[str, Any] = json.loads(json.dumps(settings))
    return content


def versions() -> dict[str, str]:
    """The versions of the libraries that write a checkpoint, and should read it."""
    return {"torch": str(torch.__version__), "deepspeed": importlib.metadata.version("deepspeed")}


def _check_size(path: Path, size: int) -> None:
    try:
        actual = path.stat().st_size
    except OSError as error:
        raise DamagedError(f"{path}: {_reason(error)}") from error
    if actual != size:
        raise DamagedError(f"{path}: has {actual} bytes, not the {size} written")


def _reason(error: Exception) -> str:
    return (error.strerror or repr(error)) if isinstance(error, OSError) else str(error)
