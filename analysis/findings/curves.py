"""The logged curves that figures show: a few metrics of pretrained runs, averaged to what a line can show."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.findings import text
from analysis.findings.series import leading
from analysis.laws.law import Array
from analysis.study.metrics_file import Line, averaged, read_metrics
from analysis.study.records import Study

MAX_POINTS = 300
MAX_THREADS = 8
Key = tuple[str, str]
"""Task and metric."""


@dataclass(frozen=True)
class Curve:
    """One metric of one run over images seen [n], at most ``MAX_POINTS`` means of neighbouring steps."""

    run_id: str
    label: str
    images: Array
    values: Array


@dataclass(frozen=True)
class Curves:
    """Curves by task and metric, in the order of the study's runs, and what had to be left out."""

    found: Mapping[Key, Sequence[Curve]]
    notes: tuple[str, ...]

    def of(self, task: str, metric: str) -> Sequence[Curve]:
        """The curves of a metric; none where it was not asked for or not logged."""
        return self.found.get((task, metric), ())


def curves(study: Study, wanted: Mapping[str, Sequence[str]]) -> Curves:
    """Read the ``wanted`` metrics of each task from the metrics.jsonl files of the runs, file by file."""
    rows = pd.concat([leading(study.table[study.table["task"] == task]) for task in wanted]).sort_index()
    runs = list(rows[["run_id", "task", "label"]].itertuples(index=False, name=None))

    def read(run: tuple[str, str, str]) -> tuple[dict[str, Curve], int]:
        run_id, task, label = run
        lines, unreadable = read_metrics(_path(study, run_id, task), wanted[task])
        return {metric: _curve(run_id, label, line) for metric, line in lines.items()}, unreadable

    found: dict[Key, list[Curve]] = {}
    notes = []
    with ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_THREADS)) as pool:  # reading and parsing leave Python's lock
        for (run_id, task, _), (own, unreadable) in zip(runs, pool.map(read, runs), strict=True):
            for metric, curve in own.items():
                if len(curve.values):
                    found.setdefault((task, metric), []).append(curve)
            if unreadable:
                notes.append(f"{run_id}/{task}/metrics.jsonl: {text.counted(unreadable, 'unreadable line')} left out.")
    return Curves(found, tuple(notes))


def _path(study: Study, run_id: str, task: str) -> Path:
    return study.path / "runs" / run_id / task / "metrics.jsonl"


def _curve(run_id: str, label: str, line: Line) -> Curve:
    usable = np.isfinite(line.images) & np.isfinite(line.values)
    images, values = (averaged(column[usable], MAX_POINTS) for column in (line.images, line.values))
    return Curve(run_id, label, images, values)
