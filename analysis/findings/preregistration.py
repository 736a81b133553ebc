"""Preregistered predictions: what the laws of finished runs expect of runs to come, and later what came out beside
it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from analysis.findings import text
from analysis.findings.finding import Finding
from analysis.findings.series import (
    COMPUTE,
    FINETUNED,
    LABELS,
    LOSS,
    OBJECTIVE,
    PARAMETERS,
    SHORTFALL,
    Axis,
    Target,
    best_settings,
    errors,
    finished,
    scaled_axes,
    series,
)
from analysis.fit.student import Interval, NoFit, finite, p_value
from analysis.study.files import read_predictions
from analysis.study.records import Study
from nepa_scale.config.objectives import NEXT_EMBEDDING
from nepa_scale.config.registry import labelled

TARGET_OF = {target.task: target for target in (SHORTFALL, *FINETUNED)}
AXES = {axis.column: axis for axis in (PARAMETERS, COMPUTE)}
UNLIKE = "another number of labels or another objective than the runs of the law"


@dataclass(frozen=True)
class Candidate:
    """A run to come, with its place on either axis: parameters and pre-training FLOPs."""

    run_id: str
    label: str
    params: int
    pretrain_flops: int
    images: Mapping[str, int] = field(default_factory=dict)
    """{task: the different images that it trains on}, as planned."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """{setting: its value} of what the plan varies; what is left out has its default."""

    def place(self, axis: Axis) -> float:
        """Where it lies on ``axis``."""
        return float(self.params if axis is PARAMETERS else self.pretrain_flops)


def expectations(study: Study, candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    """An entry for each error and axis of the ``study``: the law, the runs it was fitted to, and what it expects of
    those of the ``candidates`` that it is about; or why there is none. The runs expected are not among those fitted."""
    coming = {candidate.run_id for candidate in candidates}
    others = dataclasses.replace(study, table=study.table[~study.table["run_id"].isin(coming)])
    targets = [target for target in (SHORTFALL, *FINETUNED) if len(study.of(target.task))]
    return [_entry(others, target, axis, candidates) for target in targets for axis in scaled_axes(study)]


def _entry(study: Study, target: Target, axis: Axis, candidates: Sequence[Candidate]) -> dict[str, Any]:
    if axis is PARAMETERS:  # shorter runs of the size to come know more of it than a law over sizes would
        sizes = {candidate.params for candidate in candidates}
        study = dataclasses.replace(study, table=study.table[~study.table["params_backbone"].isin(sizes)])
    fitted = series(study, target, axis)
    points = fitted.points[["run_id", "x", "error"]].to_dict("records")
    entry: dict[str, Any] = {"task": target.task, "metric": target.metric, "axis": axis.column, "fitted_to": points}
    entry["run_ids"] = [candidate.run_id for candidate in candidates]
    if isinstance(fitted.fit, NoFit):
        return {**entry, "reason": fitted.fit.reason, "law": None, "expected": []}
    kind = _Kind.of(study, target, [point["run_id"] for point in points], candidates)
    candidates = [run for run in candidates if kind.has(run.images.get(target.task), run.values)]
    if not candidates:
        return {**entry, "reason": f"the runs to come have {UNLIKE}", "law": None, "expected": []}
    places = [candidate.place(axis) for candidate in candidates]
    prediction, (_, degrees) = fitted.fit.predict(places), fitted.fit.reach(places)
    bounds = zip(candidates, places, prediction.y, prediction.low, prediction.high, degrees, strict=True)
    return {
        **entry,
        "reason": None,
        "law": {"form": "a x^-b", "a": fitted.fit.a, "b": fitted.fit.b}
        | {"places": fitted.fit.n, "groups": fitted.fit.groups},
        "expected": [
            {"run_id": run.run_id, "label": run.label, "x": x, "error": finite(y)}
            | {"low": finite(low), "high": finite(high), "degrees": finite(freedom)}
            for run, x, y, low, high, freedom in bounds
        ],
    }


@dataclass(frozen=True)
class _Kind:
    """What the runs have in common that one law is about; nothing of what is not known of them."""

    images: frozenset[int]
    """Numbers of labelled images."""
    keys: tuple[str, ...]
    """The varied settings that decide what pre-training predicts."""
    values: frozenset[tuple[Any, ...]]
    """Of ``keys``."""

    @classmethod
    def of(cls, study: Study, target: Target, run_ids: Collection[str], others: Sequence[Candidate] = ()) -> _Kind:
        """The kind of the runs of a ``study`` that a law of ``target`` was fitted to; ``others`` vary settings, too."""
        rows = _finished(study.tried, target, run_ids)
        varied = {*study.axes, *(key for run in others for key in run.values)}
        keys = tuple(key for key in _decisive(target) if key in varied)
        images = rows[LABELS.column].dropna() if target.task in {task.name for task in labelled()} else ()
        values = {_values(config, keys) for config in _configs(study, target, rows)}
        return cls(frozenset(map(int, images)), keys, frozenset(values))

    def has(self, images: int | None, config: Mapping[str, Any]) -> bool:
        """Whether a run on so many ``images``, with these settings, is of this kind."""
        at_equal_labels = images is None or not self.images or images in self.images
        return at_equal_labels and (not self.values or _values(config, self.keys) in self.values)


def _decisive(target: Target) -> dict[str, Any]:
    """{setting of what pre-training predicts: its value in a run that does not say}, as ``series`` divides them."""
    columns = {OBJECTIVE: NEXT_EMBEDDING.name} | (LOSS if target is SHORTFALL else {})
    return {column.removeprefix("config."): value for column, value in columns.items()}


def _values(config: Mapping[str, Any], keys: Sequence[str]) -> tuple[Any, ...]:
    defaults = _decisive(SHORTFALL)
    return tuple(config.get(key, defaults[key]) for key in keys)


def _finished(table: pd.DataFrame, target: Target, run_ids: Collection[str]) -> pd.DataFrame:
    """The rows of those runs that are finished; a run may use another's pre-training."""
    return finished(table[(table["task"] == target.task) & table["run_id"].isin(run_ids)], target)


def _configs(study: Study, target: Target, rows: pd.DataFrame) -> list[Mapping[str, Any]]:
    return [study.results[run_id, target.task]["config"] or {} for run_id in rows["run_id"]]


@dataclass(frozen=True)
class Registered:
    """What was expected of one run at a place on an axis, and what came, on average over its seeds.

    As in the law, the setting of the lowest mean error stands for a place at which several were tried.
    """

    target: Target
    axis: Axis
    label: str
    x: float
    error: float
    """NaN where nothing finite was expected."""
    interval: Interval
    places: int
    """Points on the axis that the law was fitted to."""
    groups: int
    """Of these, how many had noise of their own."""
    degrees: float
    """Degrees of freedom of ``interval``."""
    when: str
    errors: tuple[float, ...]
    """Of the runs that are finished."""
    unlike: bool = False
    """Whether runs are finished, but only such that the law is not about."""

    @property
    def question(self) -> str:
        """The question about it."""
        return f"Was the {self.target.name} of {self.label} as its law along {self.axis.name} expected?"

    @property
    def came(self) -> float | None:
        """The geometric mean of ``errors``; None before any run has finished."""
        if not self.errors:
            return None
        return math.exp(sum(map(math.log, self.errors)) / len(self.errors)) if min(self.errors) > 0 else 0.0

    @property
    def kept(self) -> bool | None:
        """Whether what came lies in the interval; None before any run has finished."""
        return None if self.came is None else self.came in self.interval

    @property
    def p(self) -> float | None:
        """How likely a law that holds misses by as much: the interval is Student's, in logarithms."""
        ends = (self.came or 0.0, self.error, self.interval.low, self.interval.high)
        if not all(math.isfinite(end) and end > 0 for end in ends):
            return None
        came, error, low, high = map(math.log, ends)
        half = (high - low) / 2
        return p_value(Interval(error - half, error + half), came, self.degrees)


def check_predictions(study: Study) -> list[Finding]:
    """A finding for each expectation in the study's ``predictions.json``; none without the file.

    Raises ``UserError`` when it is damaged.
    """
    return [
        *map(_finding, registered(study)),
        *(
            Finding(
                f"Was the {TARGET_OF[entry['task']].name} along {AXES[entry['axis']].name} as registered?",
                "Cannot say",
                f"Nothing was expected: {entry['reason']}.",
            )
            for entry in _content(study)["entries"]
            if entry["law"] is None
        ),
    ]


def registered(study: Study) -> list[Registered]:
    """Every place of which something was expected. Raises ``UserError`` when ``predictions.json`` is damaged."""
    content = _content(study)
    registrations = []
    for entry in content["entries"]:
        places: dict[float, list[Mapping[str, Any]]] = {}
        for expected in entry["expected"] if entry["law"] is not None else ():
            places.setdefault(expected["x"], []).append(expected)
        when = entry.get("written_at", content["written_at"])
        registrations += [_registered(study, entry, members, when) for members in places.values()]
    return registrations


def _content(study: Study) -> dict[str, Any]:
    return read_predictions(study.path) or {"entries": []}


def _registered(study: Study, entry: Mapping[str, Any], members: Sequence[Mapping[str, Any]], when: str) -> Registered:
    target, first, law = TARGET_OF[entry["task"]], members[0], entry["law"]
    done = _finished(study.table, target, [member["run_id"] for member in members])
    came = _came(study, target, entry, done)
    labels = {member["run_id"]: member["label"] for member in members}
    return Registered(
        target,
        AXES[entry["axis"]],
        labels[came["run_id"].iloc[0]] if len(came) else first["label"],
        float(first["x"]),
        math.nan if first["error"] is None else first["error"],
        Interval(first["low"] or 0.0, math.inf if first["high"] is None else first["high"]),
        law["places"],
        law.get("groups", law["places"]),  # older versions took all places as independent
        first.get("degrees") or law.get("degrees", law["places"] - 2),
        when,
        tuple(came["error"]),
        unlike=len(done) > len(came) == 0,
    )


def _came(study: Study, target: Target, entry: Mapping[str, Any], done: pd.DataFrame) -> pd.DataFrame:
    """[run_id, x, error] of those of the finished rows that the law is about; older versions expected it of others."""
    kind = _Kind.of(study, target, [point["run_id"] for point in entry.get("fitted_to", ())])
    images = (None if pd.isna(count) else int(count) for count in done[LABELS.column])
    alike = [kind.has(*run) for run in zip(images, _configs(study, target, done), strict=True)]
    rows = done[pd.Series(alike, index=done.index, dtype="bool")]
    points = pd.DataFrame({"run_id": rows["run_id"], "x": 0.0, "error": errors(rows, target)})
    return best_settings(points, rows, study.axes)


def _finding(expected: Registered) -> Finding:
    interval = text.error_span(expected.interval.low, expected.interval.high)
    before = (
        f"Registered {expected.when[:16].replace('T', ' ')} UTC from "
        f"{text.places(expected.places, expected.axis.point, expected.groups)}: {text.percent(expected.error)}, "
        f"{text.LEVEL} interval {interval}"
    )
    if expected.came is None:
        why = f"What is finished has {UNLIKE}" if expected.unlike else "It is not finished"
        return Finding(expected.question, "Cannot say", f"{before}. {why}.")
    runs = f", mean of {text.counted(len(expected.errors), 'run')}" if len(expected.errors) > 1 else ""
    answer = f"{before}. It came out at {text.percent(expected.came)}{runs}."
    return Finding(expected.question, "Yes" if expected.kept else "No", answer, p=expected.p)
