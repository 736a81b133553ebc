"""Other test sets that classifications were evaluated on (``nepa-weights evaluate``): the law of each error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from analysis.findings import text
from analysis.findings.finding import Finding
from analysis.findings.scaling import law
from analysis.findings.series import CLASSIFICATION, Series, Target, finished, known_on, scaled_axes, series, starts
from analysis.study.records import Study
from nepa_scale.weights.benchmarks import BENCHMARKS

_COLUMN = f"{CLASSIFICATION.column}/"


def other_sets(study: Study) -> list[Finding]:
    """A finding for each test set, axis and start of the runs that were evaluated."""
    return [_finding(study, points) for points in laws(study)]


def laws(study: Study) -> Iterator[Series]:
    """Points and law of each test set that any run was evaluated on, along every axis that the study scales."""
    for target in evaluated(study):
        for start in starts(study.of(target.task)):
            for axis in scaled_axes(study):
                if known_on(axis, start):
                    yield series(study, target, axis, start)


def evaluated(study: Study) -> list[Target]:
    """The errors on other test sets: of the weights, or, as ``NAME-ema``, of their moving average."""
    names = (str(column).removeprefix(_COLUMN) for column in study.table if str(column).startswith(_COLUMN))
    return [target for name in names if len(finished(study.of(CLASSIFICATION.task), target := _target(name)))]


def _target(name: str) -> Target:
    plain = name.removesuffix("-ema")
    title = (BENCHMARKS[plain].title if plain in BENCHMARKS else plain) + (" (EMA)" if name != plain else "")
    metric = f"{CLASSIFICATION.metric}/{name}"
    return replace(
        CLASSIFICATION,
        metric=metric,
        name=f"error on {title}",
        score=f"{CLASSIFICATION.score} on {title}",
        baseline=None,
        baseline_name="",
        by_image=False,
    )


def _finding(study: Study, points: Series) -> Finding:
    """The law, and how many finished classifications have not been evaluated."""
    absent = len(study.finished(points.target.task)) - len(finished(study.of(points.target.task), points.target))
    found = law(replace(points, left_out=0))
    missing = f"{text.counted(absent, 'finished run')} not evaluated." if absent else ""
    return replace(found, detail=f"{found.detail} {missing}".strip())
