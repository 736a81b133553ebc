"""What each arm of a study was tried at in fine-tuning, and what was best for it."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis.findings.answers import MAX_NAMED, Finding
from analysis.findings.series import ARMS, label_order, of_start
from analysis.study.grouping import CHOSEN, SCORES
from analysis.study.records import FINISHED, Study


def tuned_rates(study: Study) -> list[Finding]:
    """For each setting that was tuned: what was chosen in each arm, and whether at the edge of what was tried."""
    return [_finding(study, key) for key in study.tuned]


def tries(study: Study, key: str) -> pd.DataFrame:
    """[label, arm, seed, value, error, chosen, state] of every run of the task of ``key`` that was tried at a value.

    ``error`` is that on the tuning images, NaN without a finished run; ``chosen`` only where there is one.
    """
    task, column = key.split(".", maxsplit=1)[0], f"config.{key}"
    rows = study.tried[(study.tried["task"] == task) & study.tried[column].notna()]
    score = rows.get(SCORES[task], pd.Series(float("nan"), index=rows.index)).astype("float64")
    error = (1 - score).where(rows["state"] == FINISHED)
    arms = pd.Series(index=rows.index, dtype="object")
    for start, name in ARMS.items():
        arms.loc[of_start(rows, start).index] = name
    found = pd.DataFrame({"label": rows["label"], "arm": arms, "seed": rows["seed"], "value": rows[column]})
    return found.assign(error=error, chosen=rows[CHOSEN] & error.notna(), state=rows["state"])


def at_edge(points: pd.DataFrame) -> pd.DataFrame:
    """The chosen rows of ``points`` whose value is the lowest or highest of all that were tried; none of words."""
    if not pd.api.types.is_numeric_dtype(points["value"]) or points["value"].nunique() == 1:
        return points.iloc[:0]
    ends = [points["value"].min(), points["value"].max()]
    return points[points["chosen"] & points["value"].isin(ends)]


def _finding(study: Study, key: str) -> Finding:
    points = tries(study, key)
    question = f"Does the best {key} of every arm lie within the values tried?"
    order = label_order(study)
    detail = " ".join(_left_out(points))
    chosen = points[points["chosen"]]
    if chosen.empty:
        return Finding(question, "Cannot say", "No finished run has a score on tuning images.", detail)
    values = ", ".join(sorted({_written(value) for value in points["value"]}, key=_rank))
    arms = "; ".join(
        f"{arm}: {_named([_of_label(own, label) for label in order if (own['label'] == label).any()])}"
        for arm in ARMS.values()
        if len(own := chosen[chosen["arm"] == arm])
    )
    answer = (
        f"Of {values}, chosen by the score on images that were not trained on, not by the one reported: {arms}."
        f"{_at_edge(points, order)}"
    )
    numeric = pd.api.types.is_numeric_dtype(points["value"]) and points["value"].nunique() > 1
    verdict = "Cannot say" if not numeric else "No" if len(at_edge(points)) else "Yes"
    return Finding(question, verdict, answer, detail)


def _named(each: list[str]) -> str:
    """All of them, or where that is too long to read the first few."""
    left = len(each) - MAX_NAMED
    return ", ".join(each) if left <= 0 else f"{', '.join(each[:MAX_NAMED])} and {left} more"


def _of_label(chosen: pd.DataFrame, label: str) -> str:
    """The values chosen for a label, over its seeds."""
    values = chosen.loc[chosen["label"] == label, "value"]
    return f"{label} {' or '.join(sorted(set(map(_written, values)), key=_rank))}"


def _at_edge(points: pd.DataFrame, order: list[str]) -> str:
    """The arms and labels whose choice is no optimum, as the values tried end there; empty without any."""
    edge = at_edge(points)
    named = [
        f"{arm} {_named([label for label in order if label in set(own['label'])])}"
        for arm in ARMS.values()
        if len(own := edge[edge["arm"] == arm])
    ]
    return f" At the edge of the values tried: {'; '.join(named)}. Try values beyond it." if named else ""


def _left_out(points: pd.DataFrame) -> Iterator[str]:
    """What takes no part in the choice, and where that or the grid leaves the arms unequal."""
    for state, rows in points[points["state"] != FINISHED].groupby("state"):
        names = zip(rows["arm"].map(str), rows["label"].map(str), rows["value"].map(_written), strict=True)
        yield f"Not compared, as {state}: {_named(list(dict.fromkeys(map(' '.join, names))))}."
    tried = {str(arm): set(map(_written, own["value"])) for arm, own in points.groupby("arm")}
    if len(set(map(frozenset, tried.values()))) > 1:
        each = "; ".join(f"{arm} {', '.join(sorted(values, key=_rank))}" for arm, values in tried.items())
        yield f"The arms were not tried at the same values, so that they are not tuned alike: {each}."


def _written(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _rank(written: str) -> tuple[float, str]:
    """Numbers in their order, then words."""
    try:
        return float(written), ""
    except ValueError:
        return float("inf"), written
