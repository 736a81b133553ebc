"""Checkpoints that are either whole or absent.

DeepSpeed writes one file per rank. All ranks write into a temporary folder; rank 0 adds a manifest of the files and
their sizes and renames the folder. Only a renamed folder whose manifest holds counts as a checkpoint::

    checkpoints/step_00000200/manifest.json, mp_rank_00_model_states.pt, ...

The folders are trusted: DeepSpeed's files are pickles. Load only what this run wrote itself.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from nepa_scale.distributed import World, barrier
from nepa_scale.files import read_json, write_json

TAG = re.compile(r"step_\d{8}")
MANIFEST = "manifest.json"


def save(folder: Path, step: int, world: World, write: Callable[[Path, str], None], *, keep: int) -> None:
    """Commit a checkpoint of ``step``; every rank calls this.

    Args:
        write: writes this rank's files into a folder of the given parent and name.
        keep: number of newest checkpoints that stay; older ones go once the new one is in place.
    """
    tag = f"step_{step:08d}"
    temporary, final = folder / f"{tag}.tmp", folder / tag
    if world.is_main:
        shutil.rmtree(temporary, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
    barrier()
    write(folder, temporary.name)
    barrier()
    if world.is_main:
        _commit(temporary, final, step, world)
        _retire(folder, keep)
    barrier()


def newest(folder: Path) -> tuple[int, Path] | None:
    """The newest checkpoint whose files are all there: (step, path), or None."""
    whole = _whole(folder)
    return (int(whole[-1].name.removeprefix("step_")), whole[-1]) if whole else None


def world_size_of(path: Path) -> int:
    """The number of ranks that wrote a checkpoint."""
    size: int = read_json(path / MANIFEST)["world_size"]
    return size


def _commit(temporary: Path, final: Path, step: int, world: World) -> None:
    files = {str(file.relative_to(temporary)): file.stat().st_size for file in temporary.rglob("*") if file.is_file()}
    for name in files:
        with (temporary / name).open("rb") as file:
            os.fsync(file.fileno())
    write_json(temporary / MANIFEST, {"step": step, "world_size": world.size, "files": files})
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)


def _whole(folder: Path) -> list[Path]:
    """The checkpoints whose files are all there, oldest first."""
    return sorted(path for path in folder.glob("step_*") if TAG.fullmatch(path.name) and _is_whole(path))


def _is_whole(path: Path) -> bool:
    try:
        files: dict[str, int] = read_json(path / MANIFEST)["files"]
        return all((path / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError):
        return False


def _retire(folder: Path, keep: int) -> None:
    """Remove all but the ``keep`` newest whole checkpoints: a damaged one must not push out a whole one."""
    for path in set(folder.glob("step_*")) - set(_whole(folder)[-keep:]):
        shutil.rmtree(path, ignore_errors=True)
