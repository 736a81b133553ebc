"""The main findings of a study: the law of each error, the gain over training from scratch, and the margin over the
majority baseline."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.findings import text
from analysis.findings.comparison import RUNS, beats_majority, comparison, gain_over_scratch
from analysis.findings.finding import Effect, Finding
from analysis.findings.series import (
    FINETUNED,
    PARAMETERS,
    PRETRAINED,
    SCRATCH,
    SHORTFALL,
    Axis,
    Series,
    Target,
    foremost,
    known_on,
    scaled_axes,
    series,
    starts,
)
from analysis.fit.power_law import PowerLawFit, fit_offset_power_law, fit_power_law
from analysis.fit.student import Interval, MeanRatio, NoFit, p_value
from analysis.study.records import Study


def find(study: Study) -> list[Finding]:
    """The findings that a reader looks for first: the laws, the gain over scratch and the margin over the majority
    baseline."""
    findings: list[Finding] = []
    axes = scaled_axes(study)
    for target in FINETUNED:
        rows = study.of(target.task)
        if rows.empty:
            continue
        compared = comparison(study, target)
        for start in starts(rows):
            first = target is foremost(study) and start == starts(rows)[0]
            laws = [law(series(study, target, axis, start)) for axis in axes if known_on(axis, start)]
            findings += [replace(finding, main=first) for finding in laws]
            if (study.table["init"] == SCRATCH).any():
                gained = replace(gain_over_scratch(compared, start), main=first)
                said = exponents_apart(study, target, start) if PARAMETERS in axes else ""
                findings.append(replace(gained, detail=f"{gained.detail} {said}".strip()))
            findings.append(beats_majority(compared, start))
        if PARAMETERS in axes and (rows["init"] == SCRATCH).any():
            findings.append(law(series(study, target, PARAMETERS, SCRATCH)))
    if axes and len(study.of(SHORTFALL.task)):
        findings.append(replace(law(series(study, SHORTFALL, axes[0])), main=foremost(study) is SHORTFALL))
    return findings


def law_question(target: Target, axis: Axis, start: str = PRETRAINED) -> str:
    """The question about a law."""
    of = "" if start == PRETRAINED else f" of {RUNS[start]}"
    return f"Does the {target.name}{of} fall with {axis.name}?"


def law(points: Series) -> Finding:
    """Say whether the error falls along the axis, by which law, and how sure that is."""
    target, axis, fit = points.target, points.axis, points.fit
    question = law_question(target, axis, points.init)
    left_out = (
        f"{text.counted(points.left_out, 'unfinished, failed or unreadable run')} left out. " if points.left_out else ""
    )
    if isinstance(fit, NoFit):
        return Finding(question, "Cannot say", f"No law was fitted: {fit.reason}.", left_out.strip())
    verdict = "Not shown" if 0 in fit.b_interval else "Yes" if fit.b > 0 else "No"
    direction = "falls" if fit.b > 0 else "rises"
    doubt = "; an interval that includes 0 establishes no trend" if verdict == "Not shown" else ""
    runs = text.counted(len(points.points), "run")
    answer = (
        f"The best line {direction} as {target.formula} = {text.number(fit.a)} · {axis.symbol}^{text.number(-fit.b)}: "
        f"exponent b = {text.number(fit.b)}, {text.LEVEL} interval {text.interval(fit.b_interval)}, "
        f"n = {text.counted(fit.n, axis.point)} ({runs}){doubt}."
    )
    detail = _tenfold(fit, axis) + _sensitivity(fit) + _floor(points) + left_out
    p = p_value(fit.b_interval, 0.0, fit.n - 2)
    return Finding(question, verdict, answer, detail.strip(), p, effect=line_effect(fit, axis.point))


def line_effect(fit: PowerLawFit, unit: str) -> Effect | None:
    """The exponent of ``fit`` as an effect; None without any noise."""
    deviation = fit.residual_std / math.sqrt(fit.log_x_spread)
    if not deviation > 0:
        return None
    spread = fit.log_x_spread / math.log(fit.x_range[1] / fit.x_range[0]) ** 2
    return Effect(fit.b / deviation, fit.n, 2, unit, spread)


def exponents_apart(study: Study, target: Target, start: str = PRETRAINED) -> str:
    """Compare the exponent in size with that from scratch, by the law of the ratio of both errors, paired by size.

    Effects that a size has on both errors cancel in the ratio, so its interval is narrower than that of the difference
    of two exponents.
    """
    errors, scratch = (
        series(study, target, PARAMETERS, init).points.groupby("x")["error"].agg(_geometric)
        for init in (start, SCRATCH)
    )
    ratio = (errors / scratch).dropna()
    fit = fit_power_law(ratio.index.to_numpy(float), ratio.to_numpy(float))
    if isinstance(fit, NoFit):
        return ""
    shown = "" if 0 not in fit.b_interval else ", so it is not shown that they differ"
    return (
        f"The exponent in {PARAMETERS.symbol} is {text.number(fit.b)} higher than from scratch "
        f"({text.LEVEL} interval {text.interval(fit.b_interval)}, paired over n = {text.counted(fit.n, 'size')})"
        f"{shown}."
    )


def _geometric(values: pd.Series[float]) -> float:
    """The mean in logarithms; NaN with a value that has none."""
    return float(np.exp(np.log(values.to_numpy(float)).mean())) if (values > 0).all() else math.nan


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
    return f"The error levels off at a floor of {text.percent(offset.e)} ({span}). "


def _tenfold(fit: PowerLawFit, axis: Axis) -> str:
    factor = tenfold(fit)
    span = text.span(factor.interval.low, factor.interval.high)
    return f"Ten times the {axis.name} multiply the error by {text.number(factor.mean)} ({span}). "


def tenfold(fit: PowerLawFit) -> MeanRatio:
    """What ten times the x multiply the error by."""
    with np.errstate(over="ignore"):  # three scattered points may leave the exponent open by hundreds
        low, factor, high = np.power(10.0, [-fit.b_interval.high, -fit.b, -fit.b_interval.low])
    return MeanRatio(float(factor), Interval(float(low), float(high)), fit.n)
