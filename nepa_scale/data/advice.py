"""Commands that messages advise: which one makes a data set of a folder that is none yet. Standard library only."""

from __future__ import annotations

import shlex
from pathlib import Path

_SIGNS = (
    ("imagenet", ("ILSVRC2012_img_train.tar", "ILSVRC/Data/CLS-LOC", "*/ILSVRC/Data/CLS-LOC")),
    ("tiny-imagenet", ("val/val_annotations.txt", "tiny-imagenet-200/val/val_annotations.txt")),
    ("ade20k", ("ADEChallengeData2016.zip", "images/training", "ADEChallengeData2016/images/training")),
    ("parquet", ("*.parquet", "data/*.parquet", "*/train/*.parquet")),
)  # what lies in a source of each kind


def prepare_command(kind: str, **settings: str | Path) -> str:
    """The line that prepares, for a shell: names with spaces and the like are quoted."""
    words = [f"{key}={value}" for key, value in settings.items()]
    return shlex.join(["python", "-m", "nepa_scale.data.prepare", kind, *words])


def source_kind(source: Path) -> str | None:
    """The kind of source that a folder is by the names in it, if it is one."""
    for kind, patterns in _SIGNS:
        if any(next(source.glob(pattern), None) for pattern in patterns):
            return kind
    return "folder" if _has_folders(source / "train") else None


def how_to_prepare(source: Path, root: Path) -> tuple[str, str] | None:
    """The command that makes a data set in ``root`` of a source, and the set's name; None for another folder."""
    kind = source_kind(source)
    if kind is None:
        return None
    name = f"{source.resolve().name.lstrip('.') or 'data'}-shards"
    command = prepare_command(kind, source=source, root=root, name=name)
    if kind == "folder" and not any(_has_folders(source / split) for split in ("val", "valid", "validation")):
        command += " val_fraction=0.1"
    return command, name


def _has_folders(folder: Path) -> bool:
    return folder.is_dir() and any(child.is_dir() for child in folder.iterdir())
