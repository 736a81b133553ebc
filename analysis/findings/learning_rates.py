"""Learning rates: whether one base rate of pre-training is best at all sizes, and which rates of fine-tuning were
tried and chosen.

The first question has three outcomes, each of the two claims with a stated error: No, one rate is not best for all;
Yes, all best rates lie within a step of those tried; else not shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from analysis.findings import text
from analysis.findings.comparison import MAX_NAMED
from analysis.findings.finding import Effect, Finding
from analysis.findings.series import ARMS, SCRATCH, label_order, of_start
from analysis.fit.student import CONFIDENCE, Interval, NoFit
from analysis.optimum import Common, Sweep, sweep
from analysis.optimum.valley import Curve
from analysis.study.columns import CHOSEN, SCORES, settings, tuned_of
from analysis.study.records import FINISHED, Study
from nepa_scale.config.schema import RunConfig

RATE, SKILL = "config.pretrain.base_lr", "metrics.skill"
QUESTION = "Is one base learning rate best at all sizes?"


def one_rate(study: Study) -> list[Finding]:
    """Compare the base rates with the highest skill of pre-training; nothing of a study that does not vary both."""
    others = [f"config.{key}" for key in study.axes if key not in ("pretrain.base_lr", "seed")]
    rows = study.of("pretrain")
    if RATE not in rows or not others or len(rows[others].drop_duplicates()) < 2:
        return []
    done = rows[rows["state"] == FINISHED]
    done = done[done[SKILL].notna()] if SKILL in done else done.iloc[:0]
    left_out = len(rows) - len(done)
    skills = {_name(others, key): size for key, size in done.groupby(others, sort=False, dropna=False)}
    named = pd.Series("", index=done.index, dtype="object")
    for name, size in skills.items():
        named.loc[size.index] = name
    fit = sweep(done[RATE].astype("float64"), -done[SKILL].astype("float64"), named)
    said = f"{text.counted(left_out, 'unfinished or failed run')} left out." if left_out else ""
    if isinstance(fit, NoFit) or len(fit.curves) < 2:
        return [Finding(QUESTION, "Cannot say", "Fewer than two sizes have three finished rates each.", said)]
    answer = f"Skill of pretraining is highest at base_lr: {'; '.join(map(_best, fit.curves))}."
    at_edge = [curve.name for curve in fit.curves if curve.edge or curve.best is None]
    if at_edge:
        detail = f"The best of {', '.join(at_edge)} lies at an edge of the rates tried: try rates beyond it. {said}"
        return [Finding(QUESTION, "Cannot say", answer, detail.strip())]
    common = fit.common()
    if isinstance(common, NoFit):
        return [Finding(QUESTION, "Cannot say", answer, f"No test: {common.reason}. {said}".strip())]
    said_of_all, p = verdict(common)
    sizes = [float(skills[curve.name]["params_backbone"].median()) for curve in fit.curves]
    detail = f"{_shared(fit, common)} {_exponent(fit, sizes)}{said}".strip()
    return [Finding(QUESTION, said_of_all, answer, detail, p, main=True, effect=_effect(common, fit.valleys.left))]


def verdict(common: Common) -> tuple[str, float]:
    """The verdict and its p value: each of the two claims may err in half of the stated share."""
    none, apart = min(2 * common.p_none, 1.0), min(2 * common.p_apart, 1.0)
    if none < 1 - CONFIDENCE:
        return "No", none
    return ("Yes" if apart < 1 - CONFIDENCE else "Not shown"), apart


def _name(keys: list[str], values: tuple[object, ...]) -> str:
    named = dict(zip(keys, values, strict=True))
    return " ".join(
        written(value) if key == "config.model.size" else f"{key.rpartition('.')[2]}={written(value)}"
        for key, value in named.items()
    )


def _effect(common: Common, left: int) -> Effect | None:
    """The claim that is nearer to being shown as an effect, of which only more runs of each rate are surer."""
    p = min(2 * common.p_none, 2 * common.p_apart)
    return Effect(-float(special.stdtrit(left, p / 2)), left + 1, 1, None) if 0 < p < 1 else None


def _best(curve: Curve) -> str:
    """The best rate with its interval, or the rate of the best run, and the highest skill measured."""
    rate = float(curve.points.x[curve.points.y.argmin()]) if curve.best is None else curve.best
    return f"{curve.name} {text.number(rate)}{_ends(curve.interval)} (skill up to {-curve.points.y.min():.3f})"


def _ends(interval: Interval | None) -> str:
    if interval is None:
        return ""
    low = text.number(interval.low) if interval.low > 0 else "open"
    return f" [{low} to {text.number(interval.high) if math.isfinite(interval.high) else 'open'}]"


def _shared(fit: Sweep, common: Common) -> str:
    """The best common rate, and the result of the test."""
    step = f"{text.TIMES}{text.SPACE}{fit.step:.2g}"
    return (
        f"One rate for all would be {text.number(common.value)}{_ends(common.interval)}. That there is one has p = "
        f"{text.number(common.p_none)}; that two sizes' best rates are {step} (a step of those tried) or more apart, "
        f"p = {text.number(common.p_apart)}. Yes or No needs {(1 - CONFIDENCE) / 2:.1%} of either; brackets hold "
        f"{text.LEVEL} intervals, noise of one run is {text.number(fit.deviation)}, over all sizes."
    ).replace("%", f"{text.SPACE}%", 1)


def _exponent(fit: Sweep, sizes: Sequence[float]) -> str:
    """The power of the parameters that the best rates follow."""
    law = fit.law(sizes) if np.isfinite(sizes).all() else NoFit("")
    if isinstance(law, NoFit):
        return ""
    return (
        f"As a power of the parameters: pretrain.lr_rule=power, pretrain.lr_exponent={law.exponent:.2f} "
        f"({text.interval(law.interval)}). "
    )


def tuned_rates(study: Study) -> list[Finding]:
    """For each setting that was tuned: what was chosen in each arm, and whether at the edge of what was tried."""
    return [_finding(study, key) for key in study.tuned]


def tries(study: Study, key: str) -> pd.DataFrame:
    """[label, arm, seed, beside, value, error, chosen, state] of every run of the task of ``key`` tried at a value.

    ``beside`` is what else the task is tuned in, as text; ``value`` is missing where the setting is null. ``error`` is
    that on the tuning images, NaN without a finished run; ``chosen`` only where there is one.
    """
    task = key.split(".", maxsplit=1)[0]
    rows = study.tried[study.tried["task"] == task]
    rows = rows if _may_be_null(key) else rows[rows[f"config.{key}"].notna()]
    score = rows.get(SCORES[task], pd.Series(float("nan"), index=rows.index)).astype("float64")
    error = (1 - score).where(rows["state"] == FINISHED)
    arms = pd.Series(index=rows.index, dtype="object")
    for start, name in ARMS.items():
        arms.loc[of_start(rows, start).index] = name
    others = [f"config.{other}" for other in tuned_of(task, study.tuned) if other != key]
    beside = [str(values) for _, *values in rows[others].itertuples(name=None)]
    points = pd.DataFrame({"label": rows["label"], "arm": arms, "seed": rows["seed"], "beside": beside})
    return points.assign(
        value=_values(rows, key), error=error, chosen=rows[CHOSEN] & error.notna(), state=rows["state"]
    )


def texts(rows: pd.DataFrame, key: str) -> list[str]:
    """The value of a setting in each of ``rows`` as text; a dash where it is not recorded."""
    null = _may_be_null(key)
    return [written(value) if null or pd.notna(value) else text.MISSING for value in _values(rows, key)]


def _values(rows: pd.DataFrame, key: str) -> pd.Series[Any]:
    """The values of a setting; booleans as such, of which a missing value in their column makes numbers."""
    values = rows[f"config.{key}"]
    return values.map(bool, na_action="ignore") if isinstance(_default(key), bool) else values


def _may_be_null(key: str) -> bool:
    """Whether a missing value is null: such a setting is null by default, too, also in results that lack it."""
    return _default(key) is None


def _default(key: str) -> Any:
    return RunConfig().flat().get(key, math.nan)


def are_numbers(values: pd.Series[Any]) -> bool:
    """Whether the values of a setting, but for nulls, are numbers, which have a lowest and a highest."""
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def at_edge(points: pd.DataFrame) -> pd.DataFrame:
    """The chosen rows of ``points`` whose value is the lowest or highest that was tried for their label and arm, of
    those that can be at an edge."""
    able = _with_edges(points)
    if able.empty:
        return able
    tried = points.groupby(["label", "arm"])["value"]
    at_end = (points["value"] == tried.transform("min")) | (points["value"] == tried.transform("max"))
    return able[at_end.loc[able.index]]


def _with_edges(points: pd.DataFrame) -> pd.DataFrame:
    """The chosen rows of ``points`` that can be at an edge: none of values that are text, booleans, null or one alone.

    Nor of an arm that has one score at all values, as a start from scratch has of settings that it ignores.
    """
    if not are_numbers(points["value"]) or points["value"].nunique() == 1:
        return points.iloc[:0]
    scores = points.groupby(["label", "arm", "seed", "beside"], dropna=False)["error"]
    alike = (scores.transform("count") > 1) & (scores.transform("nunique") == 1)
    return points[points["chosen"] & points["value"].notna() & ~alike]


def _finding(study: Study, key: str) -> Finding:
    points = tries(study, key)
    question = f"Does the best {key} of every arm lie within the values tried?"
    order = label_order(study)
    detail = " ".join(_left_out(study, points))
    chosen = points[points["chosen"]]
    if chosen.empty:
        return Finding(question, "Cannot say", "No finished run has a score on tuning images.", detail)
    values = ", ".join(sorted({*map(written, points["value"])}, key=_rank))
    arms = "; ".join(
        f"{arm}: {_chosen(of_arm, order)}" for arm in ARMS.values() if len(of_arm := chosen[chosen["arm"] == arm])
    )
    answer = (
        f"Of {values}, chosen by the score on images that were not trained on, not by the one reported: {arms}."
        f"{_at_edge(points, order)}"
    )
    verdict = "Cannot say" if _with_edges(points).empty else "No" if len(at_edge(points)) else "Yes"
    return Finding(question, verdict, answer, detail)


def _named(names: list[str]) -> str:
    """All of them, or where that is too long to read the first few."""
    left = len(names) - MAX_NAMED
    return ", ".join(names) if left <= 0 else f"{', '.join(names[:MAX_NAMED])} and {left} more"


def _chosen(chosen: pd.DataFrame, order: list[str]) -> str:
    """What was chosen for each label, or where these are too many to name how many runs chose each value."""
    labels = [label for label in order if (chosen["label"] == label).any()]
    if len(order) <= MAX_NAMED:
        return ", ".join(_of_label(chosen, label) for label in labels)
    counts = chosen["value"].map(written).value_counts()
    return (
        ", ".join(f"{value} in {counts[value]}" for value in sorted(counts.index, key=_rank))
        + f" of {len(chosen)} runs"
    )


def _of_label(chosen: pd.DataFrame, label: str) -> str:
    """The values chosen for a label, over its seeds."""
    values = chosen.loc[chosen["label"] == label, "value"]
    return f"{label} {' or '.join(sorted(set(map(written, values)), key=_rank))}"


def _at_edge(points: pd.DataFrame, order: list[str]) -> str:
    """The arms and labels, or runs, whose choice is no optimum, as the values tried end there; empty without any."""
    edge = at_edge(points)
    named = [f"{arm} {_listed(rows, order)}" for arm in ARMS.values() if len(rows := edge[edge["arm"] == arm])]
    return f" At the edge of the values tried: {'; '.join(named)}. Try values beyond it." if named else ""


def _listed(rows: pd.DataFrame, order: list[str]) -> str:
    labels = [label for label in order if label in set(rows["label"])]
    return ", ".join(labels) if len(order) <= MAX_NAMED else f"in {text.counted(len(rows), 'run')}"


def _left_out(study: Study, points: pd.DataFrame) -> Iterator[str]:
    """What takes no part in the choice, and where the grid leaves arms unequal that are compared."""
    for state, rows in points[points["state"] != FINISHED].groupby("state"):
        names = zip(rows["arm"].map(str), rows["label"].map(str), rows["value"].map(written), strict=True)
        yield f"Not compared, as {state}: {_named(list(dict.fromkeys(map(' '.join, names))))}."
    unlike: dict[str, list[str]] = {}
    for label, tried in _compared(study, points):
        if len(set(map(frozenset, tried.values()))) > 1:
            listed = "; ".join(f"{arm} {', '.join(sorted(values, key=_rank))}" for arm, values in tried.items())
            unlike.setdefault(listed, []).append(label)
    if unlike:
        said = _named([f"{_named(labels)} ({listed})" for listed, labels in unlike.items()])
        yield f"These arms were not tried at the same values, so that they are not tuned alike: {said}."


def _compared(study: Study, points: pd.DataFrame) -> Iterator[tuple[str, dict[str, set[str]]]]:
    """Each label with the values tried in its arms and in its controls, which may be those of another label."""
    same = settings(study.tried.loc[points.index], study.results, study.tuned)
    control = points["arm"] == ARMS[SCRATCH]
    for label, members in points[~control].groupby("label", sort=False):
        partners = points.loc[control & same.isin(same.loc[members.index]), "label"]
        own = control & points["label"].isin(partners if len(partners) else [label])
        tried = pd.concat([members, points[own]])
        values = {arm: {*map(written, tried.loc[tried["arm"] == arm, "value"])} for arm in ARMS.values()}
        yield str(label), {arm: at for arm, at in values.items() if at}


def written(value: Any) -> str:
    """A setting as it is given on the command line: ``0.06``, ``true``, ``null``."""
    if isinstance(value, bool):
        return str(value).lower()
    if pd.isna(value):
        return "null"
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _rank(written: str) -> tuple[float, str]:
    """Sort key: numbers by value, then text."""
    try:
        return float(written), ""
    except ValueError:
        return float("inf"), written
