"""The main findings of a study: the law of each error, the gain over training from scratch, the margin over the
majority baseline; whether next-embedding prediction scales better than each other objective; and whether the skill of
pretraining predicts the error of fine-tuning, and adds anything to the model size."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.findings import text
from analysis.findings.comparison import RUNS, beats_majority, comparison, gain_over_scratch
from analysis.findings.finding import Effect, Finding
from analysis.findings.series import (
    COMPUTE,
    FINETUNED,
    LABELS,
    OBJECTIVE,
    PARAMETERS,
    PRETRAINED,
    SCRATCH,
    SHORTFALL,
    Axis,
    Series,
    Target,
    errors,
    finished,
    foremost,
    geometric,
    known_on,
    of_start,
    scaled_axes,
    series,
    starts,
)
from analysis.fit.multiplier import Comparison, compare
from analysis.fit.power_law import PowerLawFit, fit_offset_power_law, fit_power_law
from analysis.fit.student import CONFIDENCE, Interval, MeanRatio, NoFit, p_value, slope_given
from analysis.laws.law import Array
from analysis.study.records import Study
from nepa_scale.config.objectives import NEXT_EMBEDDING, SPECS


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
        f"n = {text.places(fit.n, axis.point, fit.groups)} ({runs}){doubt}."
    )
    detail = _tenfold(fit, axis) + _sensitivity(fit) + _shared_noise(fit) + _floor(points) + left_out
    p = p_value(fit.b_interval, 0.0, fit.errors.degrees)
    effect = line_effect(fit, axis.point)
    if effect is not None and axis is LABELS:
        effect = replace(effect, settings=len(points.points) / fit.n)
    return Finding(question, verdict, answer, detail.strip(), p, effect=effect)


def line_effect(fit: PowerLawFit, unit: str) -> Effect | None:
    """The exponent of ``fit`` as an effect; None without any noise."""
    deviation = math.sqrt(fit.errors.slope)
    if not deviation > 0:
        return None
    if fit.groups < fit.n:
        return Effect(fit.b / deviation, fit.groups, fit.groups - fit.errors.degrees, PARAMETERS.point)
    spread = fit.log_x_spread / math.log(fit.x_range[1] / fit.x_range[0]) ** 2
    return Effect(fit.b / deviation, fit.n, 2, unit, spread)


def exponents_apart(study: Study, target: Target, start: str = PRETRAINED) -> str:
    """Compare the exponent in size with that from scratch, by the law of the ratio of both errors, paired by size.

    Effects that a size has on both errors cancel in the ratio, so its interval is narrower than that of the difference
    of two exponents.
    """
    own, scratch = (series(study, target, PARAMETERS, init).averaged for init in (start, SCRATCH))
    ratio = (own / scratch).dropna()
    fit = fit_power_law(ratio.index.to_numpy(float), ratio.to_numpy(float))
    if isinstance(fit, NoFit):
        return ""
    shown = "" if 0 not in fit.b_interval else ", so it is not shown that they differ"
    return (
        f"The exponent in {PARAMETERS.symbol} is {text.number(fit.b)} higher than from scratch "
        f"({text.LEVEL} interval {text.interval(fit.b_interval)}, paired over n = {text.counted(fit.n, 'size')})"
        f"{shown}."
    )


def _sensitivity(fit: PowerLawFit) -> str:
    if fit.b_leave_one_out is None:
        return "With three points, the interval rests on a single measure of the noise. "
    return f"Leaving out any one point keeps b within {text.interval(fit.b_leave_one_out)}. "


def _shared_noise(fit: PowerLawFit) -> str:
    return "Its interval rests on the sizes, as the lengths of one share noise. " if fit.groups < fit.n else ""


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


def objectives(study: Study) -> list[Finding]:
    """A finding for each fine-tuned task and each objective beside next-embedding prediction."""
    findings = []
    for target in FINETUNED:
        arms = of_objectives(study, target)
        ours = arms.pop(NEXT_EMBEDDING.title, None)
        if ours is not None:
            findings += [_beside_objective(target, ours, name, theirs) for name, theirs in arms.items()]
    return findings


def of_objectives(study: Study, target: Target) -> dict[str, Series]:
    """{what is predicted: errors against pre-training FLOPs} of a study that varies it; empty for any other."""
    rows = study.of(target.task)
    if OBJECTIVE not in rows or rows.empty:
        return {}
    every = {spec.title: series(study, target, COMPUTE, PRETRAINED, spec.name) for spec in SPECS.values()}
    arms = {title: points for title, points in every.items() if not points.points.empty}
    return arms if len(arms) > 1 else {}


def _beside_objective(target: Target, ours: Series, name: str, theirs: Series) -> Finding:
    """Whether the error falls faster with compute than that of the objective called ``name``, and what it costs."""
    question = f"Does predicting {NEXT_EMBEDDING.title} scale better than {name}, by the {target.name}?"
    try:
        compared = compare(ours.recipe, theirs.recipe, confidence=CONFIDENCE)
    except ValueError as problem:
        return Finding(question, "Cannot say", f"{str(problem).capitalize()}.")
    first, second = compared.exponents
    shown = compared.p_exponents < 1 - CONFIDENCE
    verdict = "Not shown" if not shown else "Yes" if first > second else "No"
    answer = (
        f"With {COMPUTE.name} the error falls with an exponent of {text.number(first)}, that of {name} with "
        f"{text.number(second)} (p = {text.number(compared.p_exponents)}). {_costs(compared, name)}"
    )
    detail = (
        f"n = {len(ours.points)} and {len(theirs.points)} runs. Compute holds what an objective computes beside the "
        "backbone. All had the same settings otherwise, the learning rate too, which need not suit all alike."
    )
    return Finding(question, verdict, answer, detail, compared.p_exponents)


def _costs(compared: Comparison, name: str) -> str:
    """How many times the compute ``name`` takes for the same error, halfway (in the logarithm) of what both reached."""
    at = compared.at[len(compared.at) // 2]
    if not 0 < at.multiplier < math.inf:  # one of the errors does not fall with compute
        return f"How much compute {name} take for an error of {text.percent(at.level)} cannot be said."
    return (
        f"For an error of {text.percent(at.level)}, {name} take {text.number(at.multiplier)} times the compute "
        f"({text.LEVEL} interval {text.span(at.low, at.high)})."
    )


def transfer(study: Study) -> list[Finding]:
    """A finding for each fine-tuned task of a study that scales anything and measured the skill of its pretraining."""
    axes = scaled_axes(study)
    if not axes:
        return []
    findings = []
    for target in FINETUNED:
        points = transfer_points(study, target, axes[0])
        if not points.empty:
            findings.append(_of_skill(points, target, axes[0]))
    return findings


def transfer_points(study: Study, target: Target, axis: Axis) -> pd.DataFrame:
    """One row for each place x on ``axis``, from small to large: its shortfall of skill, error, and number of runs.

    Seeds of one size are averaged in logarithms: they share that size's own departure from any law, so they are one
    point and not several. An error or a shortfall that has no logarithm makes its place nan.
    """
    shortfalls = errors(finished(study.of(SHORTFALL.task), SHORTFALL).set_index("run_id"), SHORTFALL)
    by = of_start(study.of(target.task), PRETRAINED).set_index("run_id")["pretrained_by"]
    points = series(study, target, axis).points
    points = points.assign(shortfall=points["run_id"].map(by).map(shortfalls).astype("float64"))
    at = points.dropna(subset=["x", "shortfall"]).groupby("x")
    return at[["shortfall", "error"]].agg(geometric).assign(runs=at.size()).reset_index()


def _of_skill(points: pd.DataFrame, target: Target, axis: Axis) -> Finding:
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
    detail = [*_scatter(fit, direct, axis), *_largest_predicted(points, axis), _beyond_size(x, shortfall, error, axis)]
    return Finding(
        question,
        verdict,
        answer,
        " ".join(detail),
        p_value(fit.b_interval, 0.0, fit.errors.degrees),
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


def _largest_predicted(points: pd.DataFrame, axis: Axis) -> list[str]:
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


def _beyond_size(x: Array, shortfall: Array, error: Array, axis: Axis) -> str:
    """Whether skill predicts the error at a given size."""
    slope = slope_given(np.log(shortfall), np.log(x), np.log(error))
    if isinstance(slope, NoFit):
        return f"Whether skill says more than the {axis.point} does cannot be said: {slope.reason}."
    shown = "" if 0 not in slope.interval else ", so it is not shown that skill says more than that"
    return f"At given {axis.name} the exponent is {text.number(slope.value)} ({text.interval(slope.interval)}){shown}."
