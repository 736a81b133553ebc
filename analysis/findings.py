"""The answers a study gives, in plain sentences that carry their own uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import text
from analysis.fit.small_sample import Interval, NoFit, PowerLawFit, fit_offset_power_law, mean_ratio
from analysis.records import Study
from analysis.series import (
    CLASSIFICATION,
    PRETRAINED,
    SCRATCH,
    SEGMENTATION,
    SHORTFALL,
    Axis,
    Series,
    Target,
    finished,
    label_order,
    noun,
    scaled_axes,
    series,
)

MAX_NAMED = 12  # labels that one sentence may name


@dataclass(frozen=True)
class Finding:
    """One question, the short answer, and how sure it is."""

    question: str
    verdict: str
    """Yes, No, Not shown, or Cannot say."""
    answer: str
    detail: str = ""


@dataclass(frozen=True)
class Comparison:
    """Mean score of each label, pretrained and from scratch, beside the trivial answer (fractions 0..1)."""

    target: Target
    rows: pd.DataFrame
    """One row per label, in order; columns pretrained, scratch, trivial; NaN without a finished run."""
    noun: str
    """What a label names: size or setting."""


def find(study: Study) -> list[Finding]:
    """Answer what a reader asks first: the laws, the gain over scratch, and the trivial answers."""
    found: list[Finding] = []
    axes = scaled_axes(study)
    for target in (CLASSIFICATION, SEGMENTATION):
        if (study.table["task"] == target.task).any():
            compared = comparison(study, target)
            found += [law(series(study, target, axis)) for axis in axes]
            if (study.table["init"] == SCRATCH).any():
                found.append(gain_over_scratch(compared))
            found.append(beats_trivial(compared))
    if axes and (study.table["task"] == SHORTFALL.task).any():
        found.append(law(series(study, SHORTFALL, axes[0])))
    return found


def law(points: Series) -> Finding:
    """Say whether the error falls along the axis, by which law, and how sure that is."""
    target, axis, fit = points.target, points.axis, points.fit
    question = f"Does the {target.name} fall with {axis.name}?"
    left_out = (
        f"{text.counted(points.left_out, 'unfinished, failed or unreadable run')} left out. " if points.left_out else ""
    )
    if isinstance(fit, NoFit):
        return Finding(question, "Cannot say", f"No law was fitted: {fit.reason}.", left_out.strip())
    verdict = "Not shown" if 0 in fit.b_interval else "Yes" if fit.b > 0 else "No"
    direction = "falls" if fit.b > 0 else "rises"
    trend = f"The best line {direction}" if verdict == "Not shown" else f"It {direction}"
    doubt = "; an interval that includes 0 establishes no trend" if verdict == "Not shown" else ""
    runs = text.counted(len(points.points), "run")
    answer = (
        f"{trend} as {target.formula} = {text.number(fit.a)} · {axis.symbol}^{text.number(-fit.b)}: "
        f"exponent b = {text.number(fit.b)}, {text.LEVEL} interval {text.interval(fit.b_interval)}, "
        f"n = {text.counted(fit.n, axis.point)} ({runs}){doubt}."
    )
    detail = _tenfold(fit, axis) + _sensitivity(fit) + _floor(points) + left_out
    return Finding(question, verdict, answer, detail.strip())


def gain_over_scratch(compared: Comparison) -> Finding:
    """Compare pretrained runs with the control of the same size, paired by size."""
    target, rows = compared.target, compared.rows
    question = f"Does pretraining lower the {target.name}, against training from scratch?"
    pairs = rows.dropna(subset=["pretrained", "scratch"])
    if pairs.empty:
        return Finding(
            question,
            "Cannot say",
            f"No {compared.noun} has both a finished pretrained run and a finished scratch control.",
        )
    difference = pairs["pretrained"] - pairs["scratch"]
    each = _each(difference)
    better = int((difference > 0).sum())
    measured = f"Better at {better} of {text.counted(len(pairs), compared.noun)} (percentage points: {each})."
    ratio = mean_ratio(1 - pairs["pretrained"], 1 - pairs["scratch"])
    if isinstance(ratio, NoFit):
        return Finding(question, "Cannot say", f"{measured} No interval: {ratio.reason}.")
    verdict = "Not shown" if 1 in ratio.interval else "Yes" if ratio.mean < 1 else "No"
    answer = (
        f"On average over {compared.noun}s it multiplies the error by {text.number(ratio.mean)} "
        f"({text.LEVEL} interval {text.interval(ratio.interval)}, paired over "
        f"n = {text.counted(ratio.n, compared.noun)}; 1 is no difference)."
    )
    return Finding(question, verdict, answer, measured)


def beats_trivial(compared: Comparison) -> Finding:
    """Say how far every size is above the trivial answer on the same validation data."""
    target = compared.target
    question = f"Do the models beat the trivial answer, {target.baseline_name}?"
    known = compared.rows.dropna(subset=["pretrained", "trivial"])
    if known.empty:
        return Finding(question, "Cannot say", "No finished pretrained run reports the trivial answer's score.")
    margin = known["pretrained"] - known["trivial"]
    each = _each(margin)
    beaten = int((margin > 0).sum())
    verdict = "Yes" if beaten == len(known) else "No" if beaten == 0 else "Partly"
    answer = (
        f"The trivial answer scores {target.score} {_range(known['trivial'])}. Pretrained {compared.noun}s above "
        f"it: {beaten} of {len(known)} (percentage points: {each})."
    )
    return Finding(question, verdict, answer)


def comparison(study: Study, target: Target) -> Comparison:
    """Average the finished runs of each size and start, beside the trivial answer."""
    rows = finished(study.table[study.table["task"] == target.task], target)
    score = rows.groupby(["label", "init"])[f"metrics.{target.metric}"].mean().unstack("init")
    baseline = f"metrics.{target.baseline}"
    trivial = rows.groupby("label")[baseline].mean() if baseline in rows else pd.Series(dtype="float64")
    order = [label for label in label_order(study) if label in score.index]
    columns = {"pretrained": score.get(PRETRAINED), "scratch": score.get(SCRATCH), "trivial": trivial}
    return Comparison(
        target, pd.DataFrame(columns, index=pd.Index(order, dtype="object"), dtype="float64"), noun(study)
    )


def _sensitivity(fit: PowerLawFit) -> str:
    if fit.b_leave_one_out is None:
        return "With three points, the interval rests on a single measure of the noise. "
    return f"Leaving out any one point keeps b within {text.interval(fit.b_leave_one_out)}. "


def _floor(points: Series) -> str:
    x, error = points.points["x"].to_numpy(float), points.points["error"].to_numpy(float)
    offset = fit_offset_power_law(x, error)
    if isinstance(offset, NoFit):
        return ""
    low, high = offset.e_interval.low, offset.e_interval.high
    if low == 0:
        return f"A floor under the error is not shown: any from 0 to {text.percent(high)} fits. "
    span = f"{text.percent(low)} to {text.percent(high)}"
    return f"The error levels off at a floor of {text.percent(offset.law.e)} ({span}). "


def _tenfold(fit: PowerLawFit, axis: Axis) -> str:
    with np.errstate(over="ignore"):  # three scattered points may leave the exponent open by hundreds
        low, factor, high = np.power(10.0, [-fit.b_interval.high, -fit.b, -fit.b_interval.low])
    span = text.interval(Interval(float(low), float(high)))
    return f"Ten times the {axis.name} multiply the error by {text.number(float(factor))} ({span}). "


def _each(differences: pd.Series[float]) -> str:
    """Every difference with its label; the ends alone where labels are too many to name."""
    if len(differences) > MAX_NAMED:
        return f"from {text.points(float(differences.min()))} to {text.points(float(differences.max()))}"
    return "; ".join(f"{label} {text.points(value)}" for label, value in differences.items())


def _range(values: pd.Series[float]) -> str:
    low, high = text.percent(float(values.min())), text.percent(float(values.max()))
    return low if low == high else f"{low} to {high}"
