"""The sentence that a page leads with: what was found of the foremost error, with intervals, or that it was not."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

from analysis.findings import text
from analysis.findings.comparison import comparison, gain, gain_question
from analysis.findings.few_labels import arms, worth, worth_question
from analysis.findings.finding import NOT_SHOWN, Finding
from analysis.findings.preregistration import registered
from analysis.findings.scaling import law_question, tenfold
from analysis.findings.series import (
    COMPUTE,
    PARAMETERS,
    Axis,
    Target,
    finished,
    foremost,
    known_on,
    leading,
    scaled_axes,
    series,
    starts,
)
from analysis.fit.power_law import PowerLawFit
from analysis.fit.student import NoFit
from analysis.study.records import Study

WORDS = {PARAMETERS: ("model size", "the parameters"), COMPUTE: ("pretraining compute", "the FLOPs")}
_INTERVAL = f"{text.LEVEL} interval "
MOST_SIZES = 3
"""Whose worth in labels a sentence may name."""


@dataclass(frozen=True)
class Headline:
    """The main error of a study and the sentence about it."""

    target: Target
    sentence: str


def headline(study: Study, findings: Sequence[Finding] = ()) -> Headline | None:
    """The classification error's headline, without any that of segmentation, else of pre-training's skill.

    It claims no more than the ``findings`` do, which hold together. None before any run of these has finished. Raises
    ``UserError`` when ``predictions.json`` is damaged.
    """
    target = foremost(study)
    if target is None:
        return None
    start = starts(finished(study.of(target.task), target))[0]
    doubtful = {finding.question for finding in findings if finding.verdict == NOT_SHOWN}
    laws = list(_laws(study, target, start, doubtful))
    gains = list(_gain(study, target, start, "it" if laws else target.name, doubtful))
    clauses = [*laws, *gains, *_labels(study, target, doubtful), *_predictions(study, target, doubtful)]
    said = "; ".join(clauses) or _pairs(study, target) or _scores(study, target)
    first, interval, rest = said.partition(_INTERVAL)
    said = first + interval + rest.replace(_INTERVAL, "")  # once is enough
    return Headline(target, f"{said[:1].upper()}{said[1:]}.")


def _laws(study: Study, target: Target, start: str, doubtful: Container[str]) -> Iterator[str]:
    said: dict[str, list[str]] = {}
    for axis in scaled_axes(study):
        fit = series(study, target, axis, start).fit if known_on(axis, start) else None
        if isinstance(fit, PowerLawFit):
            unsure = 0 in fit.b_interval or law_question(target, axis, start) in doubtful
            verb = "" if unsure else "falls" if fit.b > 0 else "rises"
            said.setdefault(verb, []).append(_law(axis, fit))
    unshown = said.pop("", [])
    for verb, laws in said.items():
        yield f"{target.name} {verb} {' and '.join(laws)}"
    if unshown:
        yield f"that {'it' if said else target.name} changes {' or '.join(unshown)} is not shown"


def _law(axis: Axis, fit: PowerLawFit) -> str:
    name, of = WORDS[axis]
    factor = tenfold(fit)
    return (
        f"with {name} ({text.TIMES}{text.SPACE}{text.number(factor.mean)} for ten times {of}, "
        f"{_INTERVAL}{text.span(factor.interval.low, factor.interval.high)}, n = {text.counted(fit.n, axis.point)})"
    )


def _gain(study: Study, target: Target, start: str, error: str, doubtful: Container[str]) -> Iterator[str]:
    """What pre-training does to the ``error``, where enough labels have both starts for an interval."""
    if target.baseline is None:
        return
    compared = comparison(study, target)
    ratio = gain(compared, start)
    if isinstance(ratio, NoFit):
        return
    if 1 in ratio.interval or gain_question(target, start) in doubtful:
        claim = f"that pretraining changes {error} is not shown"
    else:
        claim = f"pretraining {'lowers' if ratio.mean < 1 else 'raises'} {error}"
    yield (
        f"{claim} ({text.TIMES}{text.SPACE}{text.number(ratio.mean)} of that from scratch, "
        f"{_INTERVAL}{text.span(ratio.interval.low, ratio.interval.high)}, n = {text.counted(ratio.n, 'pair')})"
    )


def _labels(study: Study, target: Target, doubtful: Container[str]) -> Iterator[str]:
    if target.baseline is None:
        return
    pairs = arms(study, target)
    for pair in pairs[-MOST_SIZES:]:
        shift = worth(pair)
        if not isinstance(shift, NoFit):
            times = f"{text.TIMES}{text.SPACE}{text.number(shift.factor)}"
            span = f"{_INTERVAL}{text.span(shift.interval.low, shift.interval.high)}"
            if 1 in shift.interval or worth_question(pair, pairs) in doubtful:
                yield f"that pretraining is worth labels at {pair.size} is not shown ({times}, {span})"
            else:
                yield f"at {pair.size} pretraining is worth {times} the labels ({span})"


def _predictions(study: Study, target: Target, doubtful: Container[str]) -> Iterator[str]:
    """What was registered along the axis whose law rests on most points, and what came."""
    answered = [expected for expected in registered(study) if expected.target is target and expected.came is not None]
    axis = max(answered, key=lambda expected: expected.places).axis if answered else None
    for expected in answered:
        if expected.axis is axis:
            span = text.error_span(expected.interval.low, expected.interval.high)
            failed = "was missed, as chance may" if expected.question in doubtful else "failed"
            held = "held" if expected.kept else failed
            yield (
                f"the prediction registered for {expected.label}, {text.percent(expected.error)} ({span}), {held}: "
                f"{text.percent(expected.came or 0.0)}"
            )


def _pairs(study: Study, target: Target) -> str:
    """Both scores of each label, where too few have both for an interval; empty without any."""
    if target.baseline is None:
        return ""
    compared = comparison(study, target)
    pairs = compared.rows.assign(leading=compared.leading).dropna(subset=["leading", "scratch"])
    scores = [
        f"{text.percent(pretrained)} pretrained and {text.percent(scratch)} from scratch at {label}"
        for label, pretrained, scratch in pairs[["leading", "scratch"]].itertuples(name=None)
    ]
    return f"{target.score} is {', '.join(scores)}: too few pairs for an interval" if scores else ""


def _scores(study: Study, target: Target) -> str:
    """The measured errors, where no law, gain or prediction can be stated."""
    rows = leading(finished(study.of(target.task), target))
    rows = rows if len(rows) else finished(study.of(target.task), target)
    means = (1 - rows[f"metrics.{target.metric}"]).groupby(rows["label"], sort=False).mean().sort_values(kind="stable")
    counted = text.counted(len(rows), "run")
    errors = [
        f"{text.percent(error)} ({label})" for label, error in zip(means.index, means.to_numpy(float), strict=True)
    ]
    if len(means) == 1:
        return f"{target.name} is {errors[0]}, {counted}"
    return (
        f"{target.name} goes from {errors[0]} to {errors[-1]} over {len(means)} settings ({counted}); whether they "
        "differ beyond chance is not tested"
    )
