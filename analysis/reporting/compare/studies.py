"""Several studies with names that tell them apart, and what they say together: whether their laws have one exponent,
and which is better at equal labels."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.findings import text
from analysis.findings.comparison import comparison
from analysis.findings.finding import Finding
from analysis.findings.series import FINETUNED, Axis, Series, Target, scaled_axes, series, starts
from analysis.fit.power_law import PowerLawFit
from analysis.fit.student import Interval, NoFit, mean_ratio, t_quantile
from analysis.study.records import Study

MAX_PAIRS = 10


@dataclass(frozen=True)
class Named:
    """A study under the name it has among the others."""

    name: str
    study: Study


def named(studies: Sequence[Study]) -> list[Named]:
    """Name every study as it calls itself, or by its folder, or its place, where that is not enough."""
    own = [study.name for study in studies]
    folders = [f"{study.name} ({study.path.resolve().name})" for study in studies]
    placed = [f"{name} [{i}]" for i, name in enumerate(folders, start=1)]
    names = next(chosen for chosen in (own, folders, placed) if len(set(chosen)) == len(chosen))
    return [Named(name, study) for name, study in zip(names, studies, strict=True)]


def joined(studies: Sequence[Named]) -> pd.DataFrame:
    """The runs and tasks of all studies in one table; what a study does not have is missing."""
    tables = [one.study.tried.assign(study=one.name).astype({"study": "str"}) for one in studies]
    kinds: dict[str, set[str]] = {}
    for table in tables:
        for name, kind in table.dtypes.items():
            kinds.setdefault(str(name), set()).add(str(kind))
    mixed = {name for name, met in kinds.items() if len(met) > 1}
    every = pd.concat([_in_words(table, mixed) for table in tables], ignore_index=True)
    return every[["study", *(name for name in every if name != "study")]]


def _in_words(table: pd.DataFrame, names: Set[str]) -> pd.DataFrame:
    """``table`` with the columns ``names`` as words: a column has one type, and studies differ in theirs."""
    own = [str(name) for name in table if name in names]
    return table.assign(**{name: table[name].map(str, na_action="ignore").astype("str") for name in own})


def targets(studies: Sequence[Named]) -> list[Target]:
    """The errors that any of the studies measures."""
    return [t for t in FINETUNED if any(len(one.study.of(t.task)) for one in studies)]


def laws(studies: Sequence[Named]) -> Iterator[tuple[str, Series]]:
    """(study, points and law) for every target and axis, those of one target and axis together."""
    axes = dict.fromkeys(axis for one in studies for axis in scaled_axes(one.study))
    for target in targets(studies):
        for axis in axes:
            for one in studies:
                if axis in scaled_axes(one.study) and len(one.study.of(target.task)):
                    start = starts(one.study.of(target.task))[0]
                    yield one.name, series(one.study, target, axis, start)


def scores(studies: Sequence[Named], target: Target) -> dict[str, dict[str, float]]:
    """{study: {label: mean score of its pretrained runs}} of the studies that measure ``target``; where a study has
    none, of its runs from other weights."""
    found = {}
    for one in studies:
        rows = comparison(one.study, target).leading.dropna()
        found[one.name] = {str(label): float(score) for label, score in rows.items()}
    return found


def shared_settings(study: Study) -> dict[str, str]:
    """The settings that all finished runs of ``study`` have in common, spelt as JSON, without what it varies."""
    configs: list[dict[str, Any]] = [dict(result["config"]) for result in study.results.values()]
    if not configs:
        return {}
    spelt = [{key: json.dumps(value, sort_keys=True) for key, value in config.items()} for config in configs]
    common = {key: value for key, value in spelt[0].items() if all(other.get(key) == value for other in spelt)}
    return {key: value for key, value in sorted(common.items()) if key not in (*study.axes, *study.tuned)}


def find(studies: Sequence[Named]) -> list[Finding]:
    """Compare every pair of studies: exponents of each law, then errors at the labels that both have."""
    found = []
    for key, group in itertools.groupby(laws(studies), key=lambda entry: (entry[1].target, entry[1].axis)):
        found.append(_exponents(*key, {name: one.fit for name, one in group}))
    found += [_levels(studies, target) for target in targets(studies)]
    return found


def difference(first: PowerLawFit, second: PowerLawFit) -> Interval:
    """95 % interval of the difference of two exponents, ``second - first`` (Welch's t of two slopes)."""
    errors = [_standard_error(fit) for fit in (first, second)]
    variance = sum(error**2 for error in errors)
    middle = second.b - first.b
    if variance == 0:
        return Interval(middle, middle)
    degrees = variance**2 / sum(error**4 / (fit.n - 2) for error, fit in zip(errors, (first, second), strict=True))
    half = t_quantile(degrees) * math.sqrt(variance)
    return Interval(middle - half, middle + half)


def _standard_error(fit: PowerLawFit) -> float:
    return (fit.b_interval.high - fit.b_interval.low) / 2 / t_quantile(fit.n - 2)


def _exponents(target: Target, axis: Axis, fits: dict[str, PowerLawFit | NoFit]) -> Finding:
    question = f"Does the {target.name} fall with {axis.name} at one rate in all studies?"
    known = {name: fit for name, fit in fits.items() if isinstance(fit, PowerLawFit)}
    without = [f"{name}: {fit.reason}" for name, fit in fits.items() if isinstance(fit, NoFit)]
    detail = f"Without a law: {'; '.join(without)}." if without else ""
    if len(known) < 2:
        return Finding(
            question, "Cannot say", f"{len(known)} of {len(fits)} studies have a law; two are needed.", detail
        )
    each = "; ".join(f"{name} {text.number(f.b)} ({text.interval(f.b_interval)})" for name, f in known.items())
    pairs = list(itertools.combinations(known, 2))
    apart = {(a, b): difference(known[a], known[b]) for a, b in pairs}
    told = [f"{b} {text.MINUS} {a}: {text.interval(span)}" for (a, b), span in apart.items()][:MAX_PAIRS]
    more = f", and {len(pairs) - MAX_PAIRS} more pairs" if len(pairs) > MAX_PAIRS else ""
    differ = [f"{a} and {b}" for (a, b), span in apart.items() if 0 not in span]
    verdict = "No" if differ else "Not shown"
    doubt = (
        f"These differ: {', '.join(differ[:MAX_PAIRS])}."
        if differ
        else "No difference is established, which is no proof of equality."
    )
    answer = f"Exponents with {text.LEVEL} intervals: {each}. Differences: {'; '.join(told)}{more}. {doubt}"
    return Finding(question, verdict, answer, detail)


def _levels(studies: Sequence[Named], target: Target) -> Finding:
    """Which study has the lower error where labels are equal, paired by label."""
    question = f"Which study has the lower {target.name} at the same label?"
    measured = scores(studies, target)
    told, shown = [], False
    pairs = list(itertools.combinations(measured, 2))
    for a, b in pairs[:MAX_PAIRS]:
        both = [label for label in measured[a] if label in measured[b]]
        if not both:
            continue
        better = sum(measured[b][label] > measured[a][label] for label in both)
        ratio = mean_ratio([1 - measured[b][label] for label in both], [1 - measured[a][label] for label in both])
        said = (
            ratio.reason
            if isinstance(ratio, NoFit)
            else f"{text.number(ratio.mean)} ({text.span(ratio.interval.low, ratio.interval.high)})"
        )
        shown |= not isinstance(ratio, NoFit) and 1 not in ratio.interval
        told.append(f"error of {b} over that of {a}: {said}; {b} is better at {better} of {len(both)}")
    if not told:
        return Finding(question, "Cannot say", "No two studies have a finished pretrained run of the same label.")
    more = f" {len(pairs) - MAX_PAIRS} more pairs are left out." if len(pairs) > MAX_PAIRS else ""
    answer = f"{'. '.join(map(_capital, told))}.{more}"
    detail = "Equal labels need not mean equal settings: the differences are listed under Configuration."
    return Finding(question, "Yes" if shown else "Not shown", answer, detail)


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
