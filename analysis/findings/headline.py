"""The sentences that a page leads with: what was found of the foremost error, with intervals, and what the study is
and is not, made from the records of its runs."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.findings import text
from analysis.findings.comparison import comparison, gain, gain_question
from analysis.findings.few_labels import arms, worth, worth_question
from analysis.findings.finding import NOT_SHOWN, Finding
from analysis.findings.preregistration import registered
from analysis.findings.scaling import law_question, tenfold
from analysis.findings.series import (
    ARMS,
    CLASSIFICATION,
    COMPUTE,
    FINETUNED,
    OTHER,
    PARAMETERS,
    SCRATCH,
    Axis,
    Target,
    errors,
    finished,
    foremost,
    known_on,
    leading,
    scaled_axes,
    searched,
    series,
    size_order,
    starts,
)
from analysis.fit.power_law import PowerLawFit
from analysis.fit.student import NoFit
from analysis.study.records import FINISHED, Study
from nepa_scale.config.registry import TASKS, spec
from nepa_scale.data.info import EMBEDDED_NAME

WORDS = {PARAMETERS: ("model size", "the parameters"), COMPUTE: ("pretraining compute", "the FLOPs")}
_INTERVAL = f"{text.LEVEL} interval "
_UNSHOWN = "is not shown"
_ALONE = f"{_UNSHOWN} beside the other tests of this page (alone it would be)"
MOST_SIZES = 3
"""Whose worth in labels a sentence may name."""
PAPER_PARAMS = 85e6
"""Backbone parameters of the smaller of the paper's two models (ViT-B)."""
ENOUGH_SEEDS = 2


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
            doubt = _doubt(0 in fit.b_interval, law_question(target, axis, start) in doubtful)
            said.setdefault(doubt or ("falls" if fit.b > 0 else "rises"), []).append(_law(axis, fit))
    name, of = target.name, f" of {target.name}"
    for verb, laws in sorted(said.items(), key=lambda entry: entry[0] in (_UNSHOWN, _ALONE)):
        unsure = verb in (_UNSHOWN, _ALONE)
        yield f"a change{of} {' or '.join(laws)} {verb}" if unsure else f"{name} {verb} {' and '.join(laws)}"
        name, of = "it", ""


def _doubt(includes: bool, doubtful: bool) -> str:
    """What is said of a claim whose interval ``includes`` no effect, or that page's tests together leave in doubt."""
    return _UNSHOWN if includes else _ALONE if doubtful else ""


def _law(axis: Axis, fit: PowerLawFit) -> str:
    name, of = WORDS[axis]
    factor, n = tenfold(fit), text.places(fit.n, axis.point, fit.groups)
    return (
        f"with {name} ({text.TIMES}{text.SPACE}{text.number(factor.mean)} for ten times {of}, "
        f"{_INTERVAL}{text.span(factor.interval.low, factor.interval.high)}, n = {n})"
    )


def _gain(study: Study, target: Target, start: str, error: str, doubtful: Container[str]) -> Iterator[str]:
    """What pre-training does to the ``error``, where enough labels have both starts for an interval."""
    if target.baseline is None:
        return
    compared = comparison(study, target)
    ratio = gain(compared, start)
    if isinstance(ratio, NoFit):
        return
    measured = (
        f"({text.TIMES}{text.SPACE}{text.number(ratio.mean)} of that from scratch, "
        f"{_INTERVAL}{text.span(ratio.interval.low, ratio.interval.high)}, n = {text.counted(ratio.n, 'pair')})"
    )
    if doubt := _doubt(1 in ratio.interval, gain_question(target, start) in doubtful):
        yield f"an effect of pretraining on {error} {measured} {doubt}"
    else:
        yield f"pretraining {'lowers' if ratio.mean < 1 else 'raises'} {error} {measured}"


def _labels(study: Study, target: Target, doubtful: Container[str]) -> Iterator[str]:
    if target.baseline is None:
        return
    pairs = arms(study, target)
    for pair in pairs[-MOST_SIZES:]:
        shift = worth(pair)
        if not isinstance(shift, NoFit):
            times = f"{text.TIMES}{text.SPACE}{text.number(shift.factor)}"
            span = f"{_INTERVAL}{text.span(shift.interval.low, shift.interval.high)}"
            if doubt := _doubt(1 in shift.interval, worth_question(pair, pairs) in doubtful):
                yield f"a worth of pretraining in labels at {pair.size} ({times}, {span}) {doubt}"
            else:
                yield f"at {pair.size} pretraining is worth {times} the labels ({span})"


def _predictions(study: Study, target: Target, doubtful: Container[str]) -> Iterator[str]:
    """What was registered along the axis whose law rests on most points, and what came."""
    answered = [expected for expected in registered(study) if expected.target is target and expected.came is not None]
    axis = max(answered, key=lambda expected: expected.places).axis if answered else None
    for expected in answered:
        if expected.axis is axis:
            span = f"{_INTERVAL}{text.error_span(expected.interval.low, expected.interval.high)}"
            chance = "was missed, but by no more than chance may beside the other tests of this page"
            held = "held" if expected.kept else chance if expected.question in doubtful else "failed"
            yield (
                f"the prediction registered for {expected.label}, {text.percent(expected.error)} ({span}), {held}: the "
                f"error is {text.percent(expected.came or 0.0)}"
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
    means = errors(rows, target).groupby(rows["label"], sort=False).mean().sort_values(kind="stable")
    counted = text.counted(len(rows), "run")
    said = [f"{text.percent(error)} ({label})" for label, error in means.items()]
    if len(means) == 1:
        return f"{target.name} is {said[0]}, {counted}"
    return (
        f"{target.name} goes from {said[0]} to {said[-1]} over {len(means)} settings ({counted}); whether they "
        "differ beyond chance is not tested"
    )


@dataclass(frozen=True)
class About:
    """Sentences for the page."""

    own: str | None
    """What the study says of itself (``study.about``)."""
    is_: Sequence[str]
    is_not: Sequence[str]


def about(study: Study) -> About:
    """Describe ``study`` by its data, sizes, seeds, starts and searches, and list what these cannot show."""
    return About(study.about, tuple(filter(None, _is(study))), tuple(filter(None, _is_not(study))))


def resolution(study: Study) -> str:
    """How fine a top-1 is: the number of validation images and its standard error; empty where none is recorded."""
    rows = leading(finished(study.of(CLASSIFICATION.task), CLASSIFICATION))
    rows = rows.dropna(subset=["validation_images"])
    if rows.empty:
        return ""
    images, top1 = float(rows["validation_images"].min()), float(rows[CLASSIFICATION.column].median())
    error = math.sqrt(top1 * (1 - top1) / images)
    return (
        f"A top-1 is taken over {text.integers(rows['validation_images'])} validation images: at {text.percent(top1)} "
        f"its standard error is {100 * error:.2g} points."
    )


def _is(study: Study) -> Iterator[str]:
    table = study.table
    sizes = [size for size in size_order(study) if (table["size"] == size).any()]
    params = table["params_backbone"].dropna().astype("float64")
    if sizes and len(params):
        ends = " to ".join(dict.fromkeys(map(text.count, (params.min(), params.max()))))
        named = ", ".join(sizes) if len(sizes) <= len(TASKS) * 3 else f"{sizes[0]} to {sizes[-1]}"
        patches = values_met(study, "model.patch_size")
        sides = f", patches of {' and '.join(patches)} pixels" if patches else ""
        yield f"{text.counted(len(sizes), 'model size')} ({named}; {ends} backbone parameters){sides}."
    for task in TASKS:
        rows = table[table["task"] == task]
        if len(rows):
            yield _task(study, task, rows)
    yield resolution(study)
    seeds = table.groupby(["size", "task"])["seed"].nunique()
    if len(seeds) and seeds.max():
        yield f"{text.integers(seeds)} {'seed' if seeds.max() == 1 else 'seeds'} of each size{_starts(table)}."
    yield _searched(study)


def _task(study: Study, task: str, rows: pd.DataFrame) -> str:
    """What a task was trained on: data, pixels, images and how many of them are different."""
    data, pixels = (values_met(study, f"{task}.{key}", task) for key in ("dataset", "image_size"))
    parts = [f"on {' and '.join(data)}"] if data else []
    parts += [f"at {' and '.join(pixels)} pixels"] if pixels else []
    unique, seen = (rows[name].dropna() for name in ("unique_images", "images_seen"))
    parts += [f"{text.integers(unique)} different {spec(task).images}"] if len(unique) else []
    parts += [f"{text.integers(seen)} seen in training"] if len(seen) else []
    return f"{spec(task).activity} {', '.join(parts)}." if parts else ""


def values_met(study: Study, key: str, task: str | None = None) -> list[str]:
    """The values of a setting in the results, of one ``task`` or of all."""
    configs = [result["config"] for (_, of), result in study.results.items() if task in (None, of)]
    return list(dict.fromkeys(str(config[key]) for config in configs if config.get(key) is not None))


def _starts(table: pd.DataFrame) -> str:
    there = [name for start, name in ARMS.items() if start != OTHER and (table["init"] == start).any()]
    return f"; runs {' and '.join(there)}" if there else ""


def _searched(study: Study) -> str:
    """What was searched and by which scores: what was tuned by images of its own, the rest by the ones of this page."""
    by_scores = searched(study)
    by_tuning = [key for key in study.tuned if key not in by_scores]
    said = [f"{', '.join(by_tuning)}, chosen by tuning images that no score here is taken over"] if by_tuning else []
    said += [f"{', '.join(by_scores)}, chosen by the scores shown here"] if by_scores else []
    if not said:
        return "No setting was searched within the study: every run has those that its configuration gives."
    return f"Searched: {'; '.join(said)}."


def _is_not(study: Study) -> Iterator[str]:
    table = study.table
    params = table["params_backbone"].dropna().astype("float64")
    if len(params) and params.max() < PAPER_PARAMS:
        yield (
            f"It is not the paper's scale: its largest model has {text.count(params.max())} backbone parameters, the "
            f"paper's smaller one {text.count(PAPER_PARAMS)}. What a law says beyond these sizes is extrapolation."
        )
    if any(EMBEDDED_NAME in values_met(study, f"{task}.dataset", task) for task in TASKS):
        yield "Its images are drawn scenes of handwritten digits and not photographs."
    if len(precisions := sorted(values_met(study, "engine.precision"))) > 1:
        yield (
            f"Its runs do not all compute in one number format (engine.precision is {' and '.join(precisions)}): part "
            "of what differs between these may be rounding."
        )
    if keys := searched(study):
        yield f"In the search over {' and '.join(keys)}, the best of several scores on one split is a little too good."
    done = leading(table[(table["state"] == FINISHED) & table["task"].isin([target.task for target in FINETUNED])])
    seeds = done.groupby(["label", "task"])["seed"].nunique()
    if len(seeds) and seeds.max() < ENOUGH_SEEDS:
        yield "With one seed of each run, how far another seed would move a score is unmeasured."
    if not (table["init"] == SCRATCH).any():
        yield "It has no control from scratch, so it cannot say what pretraining is worth."
    elif all(comparison(study, target).rows.empty for target in FINETUNED):
        yield "No control has finished, so it cannot say yet what pretraining is worth."
    yield "Scores are of models and data, not of hardware: time and machine have no part in them."
