"""The file of what was expected of a study's largest runs before they started: written once, never replaced."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nepa_scale.errors import UserError
from nepa_scale.files import read_json, to_json

NAME = "predictions.json"
SCHEMA = 1


def read_predictions(study_dir: Path) -> dict[str, Any] | None:
    """What was registered in ``study_dir``, or None. Raises ``UserError`` when the file is damaged."""
    path = study_dir / NAME
    try:
        content: dict[str, Any] = read_json(path)
        if content["schema"] != SCHEMA:
            raise UserError(f"{path}: schema {content['schema']} is of another version; this one reads {SCHEMA}")
        _ = content["written_at"], content["entries"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a file of predictions ({type(error).__name__}: {error}); restore it") from None
    return content


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
