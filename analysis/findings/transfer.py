"""Does the skill of pretraining predict the error of fine-tuning, and does it add anything to the model size."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from analysis.findings import text
from analysis.findings.finding import Finding
from analysis.findings.scaling import line_effect
from analysis.findings.series import (
    FINETUNED,
    PRETRAINED,
    SHORTFALL,
    Axis,
    Target,
    finished,
    of_start,
    scaled_axes,
    series,
)
from analysis.fit.power_law import PowerLawFit, fit_power_law
from analysis.fit.student import Interval, NoFit, p_value, slope_given
from analysis.laws.law import Array
from analysis.study.records import Study


def transfer(study: Study) -> list[Finding]:
    """A finding for each fine-tuned task of a study that scales anything and measured the skill of its pretraining."""
    axes = scaled_axes(study)
    if not axes:
        return []
    findings = []
    for target in FINETUNED:
        points = transfer_points(study, target, axes[0])
        if not points.empty:
            findings.append(_finding(points, target, axes[0]))
    return findings


def transfer_points(study: Study, target: Target, axis: Axis) -> pd.DataFrame:
    """One row for each place x on ``axis``, from small to large: its shortfall of skill, error, and number of runs.

    Seeds of one size are averaged in logarithms: they share that size's own departure from any law, so they are one
    point and not several. An error or a shortfall that has no logarithm makes its place nan.
    """
    pretrained = finished(study.of(SHORTFALL.task), SHORTFALL).set_index("run_id")
    skill = pretrained[f"metrics.{SHORTFALL.metric}"].astype("float64")
    rows = of_start(study.of(target.task), PRETRAINED)
    by = rows.set_index("run_id")["pretrained_by"]
    points = series(study, target, axis).points
    points = points.assign(shortfall=1 - points["run_id"].map(by).map(skill).astype("float64")).dropna(
        subset=["x", "shortfall"]
    )
    values = points[["shortfall", "error"]]
    logs = values.where(values > 0).apply(np.log)
    places = logs.groupby(points["x"]).mean().mask(logs.isna().groupby(points["x"]).any())
    return places.apply(np.exp).assign(runs=points.groupby("x").size()).reset_index()


def _finding(points: pd.DataFrame, target: Target, axis: Axis) -> Finding:
    question = f"Does the pretraining skill tell the {target.name}?"
    bad = int(points[["shortfall", "error"]].isna().any(axis=1).sum())
    if bad:
        reason = f"a shortfall of skill or an error is zero at {text.counted(bad, axis.point)}, which has no logarithm"
        return Finding(question, "Cannot say", f"No law was fitted: {reason}.")
    x, shortfall, error = (points[name].to_numpy(float) for name in ("x", "shortfall", "error"))
    fit = fit_power_law(shortfall, error)
    if isinstance(fit, NoFit):
        return Finding(question, "Cannot say", f"No law was fitted: {fit.reason}.")
    exponent = Interval(-fit.b_interval.high, -fit.b_interval.low)
    verdict = "Not shown" if 0 in exponent else "Yes" if fit.b < 0 else "No"
    doubt = "; an interval that includes 0 establishes no trend" if verdict == "Not shown" else ""
    runs = text.counted(int(points["runs"].sum()), "run")
    answer = (
        f"{target.formula} = {text.number(fit.a)} · ({SHORTFALL.formula})^{text.number(-fit.b)}: exponent "
        f"{text.number(-fit.b)}, {text.LEVEL} interval {text.interval(exponent)}, "
        f"n = {text.counted(fit.n, axis.point)} ({runs}){doubt}."
    )
    direct = fit_power_law(x, error)
    detail = [*_scatter(fit, direct, axis), *_largest(points, axis), _beyond(x, shortfall, error, axis)]
    return Finding(
        question,
        verdict,
        answer,
        " ".join(detail),
        p_value(fit.b_interval, 0.0, fit.n - 2),
        effect=line_effect(fit, axis.point),
    )


def _scatter(fit: PowerLawFit, direct: PowerLawFit | NoFit, axis: Axis) -> list[str]:
    if isinstance(direct, NoFit):
        return []
    return [
        f"Errors scatter by {_relative(fit)} about this law, and by {_relative(direct)} about the law in "
        f"{axis.name} (one standard deviation)."
    ]


def _relative(fit: PowerLawFit) -> str:
    return text.percent(math.expm1(fit.residual_std))


def _largest(points: pd.DataFrame, axis: Axis) -> list[str]:
    """How either law, fitted to all places but the largest, predicts the error there."""
    rest, last = points.iloc[:-1], points.iloc[-1]
    said = []
    for column, name in (("shortfall", "its skill"), ("x", f"its {axis.name}")):
        fit = fit_power_law(rest[column].to_numpy(float), rest["error"].to_numpy(float))
        if isinstance(fit, NoFit):
            return []
        band = fit.predict(float(last[column]))
        said.append(f"from {name} {text.percent(float(band.y))} ({text.error_span(float(band.low), float(band.high))})")
    return [
        f"Left out, the largest {axis.point} is predicted {said[0]}, {said[1]}; "
        f"it has {text.percent(float(last['error']))}."
    ]


def _beyond(x: Array, shortfall: Array, error: Array, axis: Axis) -> str:
    """Whether skill predicts the error at a given size."""
    slope = slope_given(np.log(shortfall), np.log(x), np.log(error))
    if isinstance(slope, NoFit):
        return f"Whether skill says more than the {axis.point} does cannot be said: {slope.reason}."
    shown = "" if 0 not in slope.interval else ", so it is not shown that skill says more than that"
    return f"At given {axis.name} the exponent is {text.number(slope.value)} ({text.interval(slope.interval)}){shown}."
