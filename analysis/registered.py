"""What was expected of the largest runs before they started, beside what came out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from analysis import text
from analysis.findings import Finding
from analysis.fit.small_sample import Interval
from analysis.prediction_file import read_predictions
from analysis.records import Study
from analysis.series import CLASSIFICATION, COMPUTE, PARAMETERS, SEGMENTATION, SHORTFALL, Target, finished

TARGETS = {target.task: target for target in (SHORTFALL, CLASSIFICATION, SEGMENTATION)}
AXES = {axis.column: axis for axis in (PARAMETERS, COMPUTE)}


def kept_promises(study: Study) -> list[Finding]:
    """A finding for each expectation in the study's ``predictions.json``; none without the file.

    Raises ``UserError`` when it is damaged.
    """
    content = read_predictions(study.path)
    return [] if content is None else list(_findings(study, content))


def _findings(study: Study, content: Mapping[str, Any]) -> Iterator[Finding]:
    for entry in content["entries"]:
        target, axis = TARGETS[entry["task"]], AXES[entry["axis"]]
        if entry["law"] is None:
            question = f"Was the {target.name} along {axis.name} as registered?"
            yield Finding(question, "Cannot say", f"Nothing was expected: {entry['reason']}.")
            continue
        places: dict[float, list[Mapping[str, Any]]] = {}
        for expected in entry["expected"]:
            places.setdefault(expected["x"], []).append(expected)
        for members in places.values():
            yield _finding(study, target, entry, members, content["written_at"])


def _finding(
    study: Study, target: Target, entry: Mapping[str, Any], members: Sequence[Mapping[str, Any]], when: str
) -> Finding:
    """The verdict on one place: seeds of it are one point, as in the fit."""
    axis, first = AXES[entry["axis"]], members[0]
    error = math.nan if first["error"] is None else first["error"]
    question = f"Was the {target.name} of {first['label']} as its law along {axis.name} expected?"
    low, high = first["low"] or 0.0, math.inf if first["high"] is None else first["high"]
    before = (
        f"Registered {when[:16].replace('T', ' ')} UTC from {text.counted(entry['law']['places'], axis.point)}:"
        f" {text.number(error)}, {text.LEVEL} interval {text.interval(Interval(low, high))}"
    )
    errors = _errors(study, target, [member["run_id"] for member in members])
    if not errors:
        return Finding(question, "Cannot say", f"{before}. It is not finished.")
    came = math.exp(sum(map(math.log, errors)) / len(errors)) if min(errors) > 0 else 0.0
    verdict = "Yes" if low <= came <= high else "No"
    runs = f", mean of {text.counted(len(errors), 'run')}" if len(errors) > 1 else ""
    return Finding(question, verdict, f"{before}. It came out at {text.number(came)}{runs}.")


def _errors(study: Study, target: Target, run_ids: Sequence[str]) -> list[float]:
    """The errors of those runs that are finished; a run may use another's pre-training."""
    rows = study.table[(study.table["task"] == target.task) & study.table["run_id"].isin(run_ids)]
    return [1 - float(value) for value in finished(rows, target)[f"metrics.{target.metric}"]]
