"""The file of what was expected of a study's largest runs before they started: written once, never replaced."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.study.files import NUMBER, TEXT, Types, Unreadable, checked, number
from nepa_scale.config.registry import TASKS
from nepa_scale.utils.errors import UserError
from nepa_scale.utils.files import read_json, to_json

NAME = "predictions.json"
SCHEMA = 1
AXES = ("params_backbone", "pretrain_flops")
_CONTENT: Mapping[str, Types] = {"written_at": (str,), "entries": (list,)}
_ENTRY: Mapping[str, Types] = {"law": (dict, type(None)), "reason": TEXT, "expected": (list,)}
_EXPECTED: Mapping[str, Types] = {
    **dict.fromkeys(("run_id", "label"), (str,)),
    **dict.fromkeys(("x", "error", "low", "high"), NUMBER),
}


def read_predictions(study_dir: Path) -> dict[str, Any] | None:
    """What was registered in ``study_dir``, or None. Raises ``UserError`` when the file is damaged."""
    path = study_dir / NAME
    try:
        content: dict[str, Any] = read_json(path)
        if content["schema"] != SCHEMA:
            raise UserError(f"{path}: schema {content['schema']} is of another version; this one reads {SCHEMA}")
        checked(content, _CONTENT)
        for entry in content["entries"]:
            _check(entry)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError, Unreadable) as error:
        raise UserError(f"{path}: not a file of predictions ({type(error).__name__}: {error}); restore it") from None
    return content


def _check(entry: dict[str, Any]) -> None:
    """Raises ``Unreadable``, ``TypeError`` or ``KeyError`` for an entry that is not as ``expectations`` makes it."""
    checked(entry, _ENTRY)
    if entry["task"] not in TASKS or entry["axis"] not in AXES:
        raise Unreadable(f"nothing is known of {entry['task']!r} along {entry['axis']!r}")
    if entry["law"] is not None:
        checked(entry["law"], {"places": (int,)})
    for expected in entry["expected"]:
        checked(expected, _EXPECTED)
        for name, value in expected.items():
            if name in _EXPECTED and isinstance(value, int | float) and number(value) is None:
                raise Unreadable(f"field '{name}' must be a finite number")


def write_predictions(study_dir: Path, content: Mapping[str, Any]) -> None:
    """Write the file whole; one that is there stays as it is."""
    study_dir.mkdir(parents=True, exist_ok=True)
    temporary = study_dir / f".{NAME}.{os.getpid()}.tmp"
    temporary.write_text(to_json({"schema": SCHEMA, **content}), encoding="utf-8")
    try:
        os.link(temporary, study_dir / NAME)  # which fails, unlike a rename, where there is one
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
