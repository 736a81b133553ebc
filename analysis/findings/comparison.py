"""The scores of each label beside its controls from scratch and the majority baseline; and the pre-trainings that
cannot be compared by their loss, as it comes near the mean baseline."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import special, stats

from analysis.findings import text
from analysis.findings.finding import Effect, Finding
from analysis.findings.pairing import joined
from analysis.findings.series import (
    ARMS,
    OTHER,
    PRETRAINED,
    SCRATCH,
    Target,
    at_equal_labels,
    finished,
    label_order,
    noun,
    of_start,
)
from analysis.fit.student import CONFIDENCE, Interval, MeanRatio, NoFit, mean_interval, mean_ratio, p_value, t_quantile
from analysis.laws.law import Array
from analysis.study.columns import settings
from analysis.study.files import number
from analysis.study.records import Study
from nepa_scale.config import objectives
from nepa_scale.data.preprocessing import BY_IMAGE

MAX_NAMED = 8  # labels that one sentence may name

AVERAGED = {
    "control": "Settings of one control, such as lengths of pre-training, are averaged first.",
    "group": "Settings that share a control or a pretraining are averaged first.",
}
"""What is said of pairs that are more than a label, by what one is called."""
RUNS = {PRETRAINED: "pretrained runs", OTHER: "runs from other weights", SCRATCH: "runs from scratch"}


@dataclass(frozen=True)
class Comparison:
    """Mean score of each label, of its controls from scratch and of the majority baseline (fractions 0..1)."""

    target: Target
    rows: pd.DataFrame
    """One row per label, in order; columns pretrained, other weights, scratch, majority; NaN without a finished run."""
    noun: str
    """What a label names: size or setting."""
    controls: pd.Series[str]
    """By label: labels that share their controls have the same."""
    weights: pd.DataFrame
    """By label, a column for each start but scratch: the set of the pre-trainings, or other weights, of its runs."""
    images: pd.Series[float]
    """By label: validation images that the scores are taken over; NaN where that is not recorded."""
    independent: pd.Series[bool]
    """By label: whether it counts for means over labels. Those of one number of labelled images do: the others are
    fine-tunings of the same pre-training."""

    @property
    def leading(self) -> pd.Series[float]:
        """The scores of the pretrained runs, or where none has finished of those from other weights."""
        known = [name for start, name in ARMS.items() if start != SCRATCH and self.rows[name].notna().any()]
        return self.rows[known[0] if known else ARMS[PRETRAINED]]


def gain_question(target: Target, start: str = PRETRAINED) -> str:
    """The question about runs and their controls."""
    what = "pretraining" if start == PRETRAINED else "starting from other weights"
    return f"Does {what} lower the {target.name}, against training from scratch?"


def gain_over_scratch(compared: Comparison, start: str = PRETRAINED) -> Finding:
    """Compare the runs of a ``start`` with their controls; labels that share these or their weights count as one."""
    target, rows, name = compared.target, compared.rows, ARMS[start]
    question = gain_question(target, start)
    pairs = rows.dropna(subset=[name, "scratch"])
    if pairs.empty:
        return Finding(
            question,
            "Cannot say",
            f"No {compared.noun} has both finished {RUNS[start]} and a finished control from scratch.",
        )
    difference = pairs[name] - pairs["scratch"]
    counted = pairs[compared.independent.loc[pairs.index]]
    differences = _each(difference)
    better = int((difference > 0).sum())
    measured = f"Better at {better} of {text.counted(len(pairs), compared.noun)} (percentage points: {differences})."
    unit = _unit(compared, counted.index, start)
    if unit in AVERAGED:
        measured += f" {AVERAGED[unit]}"
    if len(counted) < len(pairs):
        measured += " The interval takes one number of labels: the others rest on the same pretraining."
    ratio = gain(compared, start)
    if isinstance(ratio, NoFit):
        return Finding(question, "Cannot say", f"{measured} No interval: {ratio.reason}.")
    verdict = "Not shown" if 1 in ratio.interval else "Yes" if ratio.mean < 1 else "No"
    answer = (
        f"On average over {unit}s it multiplies the error by {text.number(ratio.mean)} "
        f"({text.LEVEL} interval {text.span(ratio.interval.low, ratio.interval.high)}, paired over "
        f"n = {text.counted(ratio.n, unit)}; 1 is no difference)."
    )
    logs = Interval(math.log(ratio.interval.low), math.log(ratio.interval.high))
    return Finding(
        question, verdict, answer, measured, p_value(logs, 0.0, ratio.n - 1), effect=_mean_effect(logs, ratio.n, unit)
    )


def gain(compared: Comparison, start: str = PRETRAINED) -> MeanRatio | NoFit:
    """The error of runs of a ``start`` over that of their controls, paired; labels that share these or their weights
    are one pair."""
    name = ARMS[start]
    pairs = compared.rows[compared.independent].dropna(subset=[name, "scratch"])
    paired = pairs.groupby(_pairs(compared, pairs.index, start), sort=False).mean()
    return mean_ratio(1 - paired[name], 1 - paired["scratch"])


def _unit(compared: Comparison, labels: pd.Index[str], start: str) -> str:
    """What one pair of ``labels`` is: a label, all that share a control, or all that share that or weights."""
    pairs, controls = _pairs(compared, labels, start).nunique(), compared.controls.loc[labels].nunique()
    return compared.noun if pairs == len(labels) else "control" if pairs == controls else "group"


def _pairs(compared: Comparison, labels: pd.Index[str], start: str) -> pd.Series[int]:
    """By each of the ``labels``, the number of its pair: those of one pair share controls or weights."""
    weights = compared.weights[ARMS[start]]
    return joined({label: {compared.controls[label], *weights[label]} for label in labels})


def beats_majority(compared: Comparison, start: str = PRETRAINED) -> Finding:
    """Compare every label with the majority baseline on the same validation data.

    Where each image is right or wrong and their number is known, every label has an interval, and all intervals hold
    simultaneously. Otherwise there is one interval, that of the mean over labels; of fine-tunings of one pre-training
    with several numbers of labels one counts, and others are averaged first.
    """
    target, name = compared.target, ARMS[start]
    of = " from other weights" if start == OTHER else ""
    question = f"Do the models{of} beat the majority baseline, {target.baseline_name}?"
    known = compared.rows.dropna(subset=[name, "majority"])
    if known.empty:
        return Finding(question, "Cannot say", f"None of the finished {RUNS[start]} has the majority baseline's score.")
    margin = known[name] - known["majority"]
    images = compared.images.loc[known.index]
    beaten = int((margin > 0).sum())
    answer = (
        f"The majority baseline scores {target.score} {_range(known['majority'])}. {_whose(compared.noun, start)} "
        f"above it: {beaten} of {len(known)} (percentage points: {_each(margin)})."
    )
    if target.by_image and images.notna().all():
        intervals = _score_intervals(known[name], images)
        margins = intervals.sub(known["majority"], axis="index")
        chance = _by_chance(known[name], known["majority"], images)
        verdict = _beyond_chance(margins)
        p = float(chance.min() if verdict in ("Partly", "Not shown") else chance.max())
        return Finding(question, verdict, answer, _of_images(margins, images), p)
    counted = margin[compared.independent.loc[known.index]]
    apart = counted.groupby(joined(compared.weights.loc[counted.index, name]), sort=False).mean()
    n, unit = len(apart), compared.noun if len(apart) == len(counted) else "group"
    mean = mean_interval(apart)
    if mean is None:
        why = f"{text.counted(n, unit)} of one number of labels shows no spread"
        return Finding(question, "Cannot say", answer, f"No interval: {why}.")
    verdict = "Not shown" if 0 in mean else "No" if mean.high < 0 else "Yes" if beaten == len(known) else "Partly"
    detail = f"Mean over {text.counted(n, unit)}: {text.LEVEL} interval {_points(mean.low, mean.high)}."
    detail += " Settings of one pretraining are averaged first." if unit == "group" else ""
    p, effect = p_value(mean, 0.0, n - 1), _mean_effect(mean, n, unit)
    return Finding(question, verdict, answer, detail, p, effect=effect)


def _mean_effect(interval: Interval, n: int, unit: str) -> Effect | None:
    """A mean of ``n`` with its Student interval as an effect; None without any noise."""
    half = (interval.high - interval.low) / 2
    return Effect((interval.low + half) / half * t_quantile(n - 1), n, 1, unit) if half > 0 else None


def _score_intervals(scores: pd.Series[float], images: pd.Series[float]) -> pd.DataFrame:
    """Exact intervals (Clopper and Pearson's) [low, high] of scores over so many images, which hold together at 95 %
    (Bonferroni)."""
    n, tail = images.to_numpy(float), (1 - CONFIDENCE) / len(scores) / 2
    right = (scores * images).round().to_numpy(float)
    low = np.where(right > 0, special.betaincinv(np.maximum(right, 1), n - right + 1, tail), 0.0)
    high = np.where(right < n, special.betaincinv(right + 1, np.maximum(n - right, 1), 1 - tail), 1.0)
    return pd.DataFrame({"low": low, "high": high}, index=scores.index)


def _by_chance(scores: pd.Series[float], majority: pd.Series[float], images: pd.Series[float]) -> Array:
    """The p value [n] of every score equalling the majority baseline's, times their number (Bonferroni, as the
    intervals)."""
    right = (scores * images).round().to_numpy(float)
    n, share = images.to_numpy(float), majority.to_numpy(float)
    tails = np.minimum(stats.binom.cdf(right, n, share), stats.binom.sf(right - 1, n, share))
    p_values: Array = np.minimum(2 * tails * len(scores), 1.0)
    return p_values


def _beyond_chance(margins: pd.DataFrame) -> str:
    above, below = margins["low"] > 0, margins["high"] < 0
    if above.any():
        return "Yes" if above.all() else "Partly"
    return "No" if below.all() else "Not shown"


def _of_images(margins: pd.DataFrame, images: pd.Series[float]) -> str:
    """The intervals of margins [low, high] and what they rest on; the widest alone where labels are too many."""
    widest = (margins["high"] - margins["low"]).idxmax()
    every = len(margins) <= MAX_NAMED
    shown = margins if every else margins.loc[[widest]]
    listed = "; ".join(f"{label} {_points(low, high)}" for label, low, high in shown.itertuples(name=None))
    which = "" if every else ", the widest"
    return f"{text.LEVEL} intervals, for all together, of {text.integers(images)} validation images{which}: {listed}."


def _points(low: float, high: float) -> str:
    return f"{text.points(low)} to {text.points(high)}"


def comparison(study: Study, target: Target) -> Comparison:
    """Average the finished runs of each label and start, their controls of equal settings, and the majority baseline.

    A control that other labels are compared with has no row of its own."""
    rows = finished(study.of(target.task), target)
    column, same = target.column, settings(rows, study.results, study.tuned)
    scratch = of_start(rows, SCRATCH)
    tuned = rows[rows["init"].notna() & ~rows.index.isin(scratch.index)]
    settings_of = {label: set(same.loc[members.index]) for label, members in tuned.groupby("label")}
    taken = {spelt for used in settings_of.values() for spelt in used}
    for label, members in scratch.groupby("label"):
        if not set(same.loc[members.index]) <= taken:
            settings_of.setdefault(label, set(same.loc[members.index]))
    order = [label for label in label_order(study) if label in settings_of]
    means = {
        name: of_start(rows, start).groupby("label")[column].mean() for start, name in ARMS.items() if start != SCRATCH
    }
    controls = {label: scratch.loc[same.loc[scratch.index].isin(settings_of[label]), column].mean() for label in order}
    baseline = f"metrics.{target.baseline}"
    majority = rows.groupby("label")[baseline].mean() if baseline in rows else pd.Series(dtype="float64")
    columns = {**means, "scratch": pd.Series(controls, dtype="float64"), "majority": majority}
    index = pd.Index(order, dtype="object")
    shared = pd.Series(["\n".join(sorted(settings_of[label])) for label in order], index=index, dtype="object")
    weights = {name: _weights(of_start(rows, start), order) for start, name in ARMS.items() if start != SCRATCH}
    images = rows.groupby("label")["validation_images"].min().astype("float64").reindex(index)
    independent = pd.Series(index.isin(at_equal_labels(study, rows)["label"]), index=index)
    return Comparison(
        target,
        pd.DataFrame(columns, index=index, dtype="float64"),
        noun(study),
        shared,
        pd.DataFrame(weights, index=index),
        images,
        independent,
    )


def _weights(rows: pd.DataFrame, labels: Sequence[str]) -> list[frozenset[str]]:
    """Of each of the ``labels`` the pre-trainings that its ``rows`` start from, or the other weights, of one size."""
    elsewhere = rows["init"].where(rows["init"] != PRETRAINED) + " of " + rows["size"]
    by_label = rows["pretrained_by"].fillna(elsewhere).dropna().groupby(rows["label"])
    found = {label: frozenset(weights) for label, weights in by_label}
    return [found.get(label, frozenset()) for label in labels]


def _whose(noun: str, start: str) -> str:
    return f"Pretrained {noun}s" if start == PRETRAINED else f"Other weights: {noun}s"


def _each(differences: pd.Series[float]) -> str:
    """Every difference with its label; the ends alone where labels are too many to name."""
    if len(differences) > MAX_NAMED:
        return f"from {text.points(float(differences.min()))} to {text.points(float(differences.max()))}"
    return "; ".join(f"{label} {text.points(value)}" for label, value in differences.items())


def _range(values: pd.Series[float]) -> str:
    low, high = text.percent(float(values.min())), text.percent(float(values.max()))
    return low if low == high else f"{low} to {high}"


def near_baseline(study: Study) -> list[str]:
    """A line for each warning that training gave, with the labels and runs that it is of."""
    rows = study.finished("pretrain")
    said: dict[str, dict[str, list[str]]] = {}
    for label, run_id in rows[["label", "run_id"]].itertuples(index=False, name=None):
        for warning in _warnings(study.results.get((run_id, "pretrain"), {})):
            said.setdefault(warning, {}).setdefault(str(label), []).append(str(run_id))
    return [f"{_named(runs)}: {warning}." for warning, runs in said.items()]


def _named(runs: Mapping[str, Sequence[str]]) -> str:
    """The labels, each with its runs."""
    return "; ".join(f"{label} ({', '.join(run_ids)})" for label, run_ids in runs.items())


def _warnings(result: Mapping[str, Any]) -> Iterator[str]:
    config, details, metrics = (result.get(name) or {} for name in ("config", "details", "metrics"))
    by_image = config.get("data.mean") == BY_IMAGE
    energy = _numbers(details.get("patch_energy"), "mean_patch")
    if energy and (warning := objectives.images_warning(energy, by_image=by_image)):
        yield warning
    late = _numbers(metrics, "skill", "mean_baseline")
    shifted = config.get("pretrain.shift", True)
    if late and shifted and (warning := objectives.training_warning(late, by_image=by_image)):
        yield warning


def _numbers(values: Any, *names: str) -> dict[str, float]:
    """The ``names`` of ``values``; nothing where one is no number, as in a damaged file."""
    numbers = {name: number(values.get(name)) for name in names} if isinstance(values, Mapping) else {}
    return (
        {} if None in numbers.values() else {name: float(value) for name, value in numbers.items() if value is not None}
    )
