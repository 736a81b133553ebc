"""The metrics.jsonl files of a study as one long table: run, task, step, metric, value."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import text
from analysis.records import Study

COLUMNS = ("run_id", "label", "init", "task", "step", "images_seen", "metric", "value")
_POSITION = ("step", "images_seen")


@dataclass(frozen=True)
class Curves:
    """Logged values in the order of the study's runs, and what had to be left out."""

    table: pd.DataFrame
    """Columns ``COLUMNS``; one row per run, task, step and metric; NaN where the run logged NaN."""
    notes: tuple[str, ...]


def curves(study: Study) -> Curves:
    """Read every metrics.jsonl of ``study``.

    A line cut short by a kill is left out and noted. When a resumed run repeats a step, the newest value of
    each metric stands.
    """
    frames: list[pd.DataFrame] = []
    notes: list[str] = []
    identity = ["run_id", "label", "init", "task"]
    for values in study.table[identity].itertuples(index=False):
        run = dict(zip(identity, values, strict=True))
        path = study.path / "runs" / run["run_id"] / run["task"] / "metrics.jsonl"
        rows, unreadable = _read_lines(path)
        if unreadable:
            lines = text.counted(unreadable, "unreadable line")
            notes.append(f"{run['run_id']}/{run['task']}/metrics.jsonl: {lines} left out.")
        if rows:
            frames.append(pd.DataFrame(rows).assign(**run))
    if not frames:
        return Curves(pd.DataFrame(columns=list(COLUMNS)), tuple(notes))
    table = pd.concat(frames, ignore_index=True)[list(COLUMNS)]
    newest = table.drop_duplicates(["run_id", "task", "step", "metric"], keep="last")
    by_step = newest.sort_values("step", kind="stable").groupby(["run_id", "task"], sort=False)
    return Curves(pd.concat([group for _, group in by_step], ignore_index=True), tuple(notes))


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Read one file into long rows; the second value counts the lines that were no logged step."""
    rows: list[dict[str, Any]] = []
    unreadable = 0
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in text.splitlines():
        record = _parse(line)
        if record is None:
            unreadable += 1
            continue
        position = {name: record.get(name) for name in _POSITION}
        for metric, value in record.items():
            if metric not in _POSITION and isinstance(value, int | float) and not isinstance(value, bool):
                rows.append({**position, "metric": metric, "value": float(value)})
    return rows, unreadable


def _parse(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None
