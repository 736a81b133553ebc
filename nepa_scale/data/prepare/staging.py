"""The folder in which a data set grows: ``root/.preparing-<name>``, from which work goes on after an interruption.

``plan.json`` says what is being made, ``dataset/`` is what will be renamed to ``root/<name>``, ``done/`` has a note for
every shard that is whole. A shard is written first and its note second, so a note is never ahead of its shard.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nepa_scale.data.prepare.pixel_sums import PixelSums
from nepa_scale.data.prepare.shard import ShardResult
from nepa_scale.utils.cli import to_text
from nepa_scale.utils.errors import DataError
from nepa_scale.utils.files import read_json, write_json

Plan = Mapping[str, Any]


def staging_folder(root: Path, name: str) -> Path:
    """Where the data set ``name`` grows."""
    return root / f".preparing-{name}"


class Staging:
    """The unfinished data set of one plan. To be used by the process that holds its lock."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.dataset = folder, folder / "dataset"
        self._plan, self._done = folder / "plan.json", folder / "done"

    def open(self, plan: Plan) -> None:
        """Continue the work on ``plan``, or begin it. Raises ``DataError`` if other work is unfinished here."""
        with suppress(FileNotFoundError):
            self._compare(read_json(self._plan), plan)
        self.dataset.mkdir(exist_ok=True)
        self._done.mkdir(exist_ok=True)
        for leftover in self.folder.rglob("*.tmp"):  # what a killed process was writing
            leftover.unlink(missing_ok=True)
        write_json(self._plan, plan)

    def _compare(self, before: Any, plan: Plan) -> None:
        keys = [key for key in plan if not isinstance(before, dict) or before.get(key) != plan[key]]
        if keys:
            changes = ", ".join(
                f"{key}={to_text(before.get(key))}" if isinstance(before, dict) else key for key in keys[:3]
            )
            what = "the source has changed since" if keys == ["source"] else f"with {changes}"
            raise DataError(
                f"'{self.folder}' holds unfinished work of another preparation ({what}): "
                "finish that one first, or remove the folder to begin anew"
            )

    def finished(self) -> dict[str, ShardResult]:
        """The shards that are whole, by file name."""
        notes = [_result(read_json(path)) for path in sorted(self._done.glob("*.json"))]
        return {note.filename: note for note in notes if not note.length or (self.dataset / note.filename).is_file()}

    def record(self, result: ShardResult) -> None:
        """Note that a shard is whole."""
        write_json(self._done / f"{result.filename}.json", asdict(result))

    def publish(self, target: Path) -> None:
        """Give the data set its name. Raises ``OSError``."""
        self.dataset.rename(target)
        self.remove()

    def remove(self) -> None:
        """Remove all that is left here except the lock, which its holder removes last."""
        for path in (self.dataset, self._done):
            shutil.rmtree(path, ignore_errors=True)
        self._plan.unlink(missing_ok=True)


def _result(note: dict[str, Any]) -> ShardResult:
    """A shard from its note; an earlier version measured none."""
    return ShardResult(**{**note, "sums": PixelSums(**note.get("sums", {}))})
