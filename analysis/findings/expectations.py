"""What the laws fitted to a study's finished runs expect of runs that have not been done yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.findings.series import (
    CLASSIFICATION,
    PARAMETERS,
    SEGMENTATION,
    SHORTFALL,
    Axis,
    Target,
    scaled_axes,
    series,
)
from analysis.fit.student import NoFit, finite
from analysis.study.records import Study


@dataclass(frozen=True)
class Candidate:
    """A run to come, with its place on either axis: parameters and pre-training FLOPs."""

    run_id: str
    label: str
    params: int
    pretrain_flops: int

    def place(self, axis: Axis) -> float:
        """Where it lies on ``axis``."""
        return float(self.params if axis is PARAMETERS else self.pretrain_flops)


def expectations(study: Study, candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    """An entry for each error and axis of the ``study``: the law, the runs it was fitted to, and what it expects of
    the ``candidates``; or why there is no law. The runs expected are not among those fitted."""
    coming = {candidate.run_id for candidate in candidates}
    others = dataclasses.replace(study, table=study.table[~study.table["run_id"].isin(coming)])
    targets = [
        target for target in (SHORTFALL, CLASSIFICATION, SEGMENTATION) if (study.table["task"] == target.task).any()
    ]
    return [_entry(others, target, axis, candidates) for target in targets for axis in scaled_axes(study)]


def _entry(study: Study, target: Target, axis: Axis, candidates: Sequence[Candidate]) -> dict[str, Any]:
    found = series(study, target, axis)
    points = found.points[["run_id", "x", "error"]].to_dict("records")
    entry = {"task": target.task, "metric": target.metric, "axis": axis.column, "fitted_to": points}
    if isinstance(found.fit, NoFit):
        return {**entry, "reason": found.fit.reason, "law": None, "expected": []}
    places = [candidate.place(axis) for candidate in candidates]
    prediction = found.fit.predict(places)
    bounds = zip(candidates, places, prediction.y, prediction.low, prediction.high, strict=True)
    return {
        **entry,
        "reason": None,
        "law": {"form": "a x^-b", "a": found.fit.a, "b": found.fit.b, "places": found.fit.n},
        "expected": [
            {"run_id": run.run_id, "label": run.label, "x": x, "error": finite(y)}
            | {"low": finite(low), "high": finite(high)}
            for run, x, y, low, high in bounds
        ],
    }
