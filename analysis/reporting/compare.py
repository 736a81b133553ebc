"""Several studies side by side: names that tell them apart, what they say together, and the page with its figures and
tables."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import pandas as pd

from analysis.findings import text
from analysis.findings.comparison import comparison
from analysis.findings.finding import Finding
from analysis.findings.series import (
    COMPUTE,
    FINETUNED,
    Axis,
    Series,
    Target,
    at_equal_labels,
    best_score,
    noun,
    scaled_axes,
    searched,
    series,
    starts,
)
from analysis.fit.multiplier import Comparison, compare, difference
from analysis.fit.power_law import PowerLawFit
from analysis.fit.student import CONFIDENCE, NoFit, mean_ratio
from analysis.reporting.figures import captions
from analysis.reporting.figures.label_plots import several_plot
from analysis.reporting.figures.plots import Plot
from analysis.reporting.page import Table, data_uri, fill
from analysis.study.columns import CHOSEN
from analysis.study.records import FINISHED, Study

MAX_PAIRS = 10


Studies = Mapping[str, Study]
"""By the name that each has among the others."""


def named(studies: Sequence[Study]) -> dict[str, Study]:
    """Name every study as it calls itself, or by its folder, or its place, where that is not enough."""
    names_of_studies = [study.name for study in studies]
    folders = [f"{study.name} ({study.path.resolve().name})" for study in studies]
    placed = [f"{name} [{i}]" for i, name in enumerate(folders, start=1)]
    names = next(chosen for chosen in (names_of_studies, folders, placed) if len(set(chosen)) == len(chosen))
    return dict(zip(names, studies, strict=True))


def joined(studies: Studies) -> pd.DataFrame:
    """The runs and tasks of all studies in one table; what a study does not have is missing."""
    tables = [study.tried.assign(study=name).astype({"study": "str"}) for name, study in studies.items()]
    kinds: dict[str, set[str]] = {}
    for table in tables:
        for name, kind in table.dtypes.items():
            kinds.setdefault(str(name), set()).add(str(kind))
    mixed = {name for name, met in kinds.items() if len(met) > 1}
    every = pd.concat([_in_words(table, mixed) for table in tables], ignore_index=True)
    return every[["study", *(name for name in every if name != "study")]]


def _in_words(table: pd.DataFrame, names: Set[str]) -> pd.DataFrame:
    """``table`` with the columns ``names`` as text: studies differ in the types of these columns."""
    columns = [str(name) for name in table if name in names]
    return table.assign(**{name: table[name].map(str, na_action="ignore").astype("str") for name in columns})


def targets(studies: Studies) -> list[Target]:
    """The errors that any of the studies measures."""
    return [t for t in FINETUNED if any(len(study.of(t.task)) for study in studies.values())]


def laws(studies: Studies) -> Iterator[tuple[str, Series]]:
    """(study, points and law) for every target and axis, those of one target and axis together."""
    axes = dict.fromkeys(axis for study in studies.values() for axis in scaled_axes(study))
    for target in targets(studies):
        for axis in axes:
            for name, study in studies.items():
                if axis in scaled_axes(study) and len(study.of(target.task)):
                    yield name, series(study, target, axis, starts(study.of(target.task))[0])


def scores(studies: Studies, target: Target) -> dict[str, dict[str, float]]:
    """{study: {label: mean score of its pretrained runs}} of the studies that measure ``target``; where a study has
    none, of its runs from other weights."""
    means = {name: comparison(study, target).leading.dropna() for name, study in studies.items()}
    return {name: {str(label): float(score) for label, score in rows.items()} for name, rows in means.items()}


def shared_settings(study: Study) -> dict[str, str]:
    """The settings that all finished runs of ``study`` have in common, spelt as JSON, without what it varies."""
    configs: list[dict[str, Any]] = [dict(result["config"]) for result in study.results.values()]
    if not configs:
        return {}
    spelt = [{key: json.dumps(value, sort_keys=True) for key, value in config.items()} for config in configs]
    common = {key: value for key, value in spelt[0].items() if all(other.get(key) == value for other in spelt)}
    return {key: value for key, value in sorted(common.items()) if key not in (*study.axes, *study.tuned)}


def find(studies: Studies) -> list[Finding]:
    """Compare every pair of studies: exponents of each law, the compute that equal errors take, then errors at the
    labels that both have."""
    findings = []
    for (target, axis), group in itertools.groupby(laws(studies), key=lambda entry: (entry[1].target, entry[1].axis)):
        arms = dict(group)
        findings.append(_exponents(target, axis, {name: points.fit for name, points in arms.items()}))
        if axis is COMPUTE:
            findings.append(_multipliers(target, arms))
    findings += [_levels(studies, target) for target in targets(studies)]
    return findings


def _exponents(target: Target, axis: Axis, fits: dict[str, PowerLawFit | NoFit]) -> Finding:
    question = f"Does the {target.name} fall with {axis.name} at one rate in all studies?"
    known = {name: fit for name, fit in fits.items() if isinstance(fit, PowerLawFit)}
    without = [f"{name}: {fit.reason}" for name, fit in fits.items() if isinstance(fit, NoFit)]
    detail = f"Without a law: {'; '.join(without)}." if without else ""
    if len(known) < 2:
        return Finding(
            question, "Cannot say", f"{len(known)} of {len(fits)} studies have a law; two are needed.", detail
        )
    listed = "; ".join(f"{name} {text.number(f.b)} ({text.interval(f.b_interval)})" for name, f in known.items())
    pairs = list(itertools.combinations(known, 2))
    apart = {(a, b): difference(known[a], known[b], _of_each(pairs)) for a, b in pairs}
    differences = [f"{b} {text.MINUS} {a}: {text.interval(span)}" for (a, b), span in apart.items()][:MAX_PAIRS]
    more = f", and {len(pairs) - MAX_PAIRS} more pairs" if len(pairs) > MAX_PAIRS else ""
    differ = [f"{a} and {b}" for (a, b), span in apart.items() if 0 not in span]
    verdict = "No" if differ else "Not shown"
    doubt = (
        f"These differ: {', '.join(differ[:MAX_PAIRS])}."
        if differ
        else "No difference is established, which is no proof of equality."
    )
    answer = f"Exponents with {text.LEVEL} intervals: {listed}. Differences: {'; '.join(differences)}{more}. {doubt}"
    return Finding(question, verdict, answer, f"{_together(pairs)} {detail}".strip())


def _of_each(pairs: Sequence[object]) -> float:
    """The confidence of each of the intervals of ``pairs`` that together hold at 95 % (Bonferroni)."""
    return 1 - (1 - CONFIDENCE) / max(1, len(pairs))


def _together(pairs: Sequence[object]) -> str:
    """A sentence on what the intervals of ``pairs`` are."""
    if len(pairs) < 2:
        return f"Intervals hold at {text.LEVEL}."
    return f"Intervals of {len(pairs)} pairs hold together at {text.LEVEL}: each is wider than it would be alone."


def _multipliers(target: Target, arms: Mapping[str, Series]) -> Finding:
    """How many times the compute of one study another needs for the same error, each study as one recipe."""
    question = f"Which study needs less compute for the same {target.name}?"
    said, unknown, shown = [], [], False
    pairs = list(itertools.combinations(arms, 2))
    for a, b in pairs[:MAX_PAIRS]:
        try:
            compared = compare(arms[a].recipe, arms[b].recipe, confidence=_of_each(pairs[:MAX_PAIRS]))
        except ValueError as problem:
            unknown.append(f"{a} and {b}: {problem}")
            continue
        said.append(f"{b} needs {_needed(compared, a)}")
        shown |= all(at.low > 1 or at.high < 1 for at in compared.at)
    detail = f"Not compared: {'; '.join(unknown)}." if unknown else ""
    if not said:
        return Finding(question, "Cannot say", "No two studies have laws that reach one error.", detail)
    more = f" {len(pairs) - MAX_PAIRS} more pairs are left out." if len(pairs) > MAX_PAIRS else ""
    detail = (
        f"{COMPUTE.name.capitalize()} of each point's own pre-training; a power law of each study. "
        f"{_together(pairs[:MAX_PAIRS])} {detail}".strip()
    )
    return Finding(question, "Yes" if shown else "Not shown", f"{'. '.join(said)}.{more}", detail)


def _needed(compared: Comparison, other: str) -> str:
    """What is said of the multiplier: at each error that was compared, with its interval."""
    shown = (
        f"{text.number(at.multiplier)} times the compute of {other} for an error of {text.percent(at.level)} "
        f"(interval {text.span(at.low, at.high)})"
        if 0 < at.multiplier < math.inf
        else f"an unknown amount for an error of {text.percent(at.level)}, as one of the errors does not fall"
        for at in compared.at
    )
    return ", ".join(shown)


def _levels(studies: Studies, target: Target) -> Finding:
    """Which study has the lower error where labels are equal, paired by label; lengths of one size are one pair."""
    question = f"Which study has the lower {target.name} at the same label?"
    measured = scores(studies, target)
    ratios, shown = [], False
    pairs = list(itertools.combinations(studies, 2))
    for a, b in pairs[:MAX_PAIRS]:
        both = _paired(studies[a], target, measured[a], measured[b])
        if both.empty:
            continue
        better = int((both["second"] > both["first"]).sum())
        ratio = mean_ratio(1 - both["second"], 1 - both["first"], _of_each(pairs[:MAX_PAIRS]))
        said = (
            ratio.reason
            if isinstance(ratio, NoFit)
            else f"{text.number(ratio.mean)} ({text.span(ratio.interval.low, ratio.interval.high)})"
        )
        shown |= not isinstance(ratio, NoFit) and 1 not in ratio.interval
        ratios.append(f"error of {b} over that of {a}: {said}; {b} is better at {better} of {len(both)}")
    if not ratios:
        return Finding(question, "Cannot say", "No two studies have a finished pretrained run of the same label.")
    more = f" {len(pairs) - MAX_PAIRS} more pairs are left out." if len(pairs) > MAX_PAIRS else ""
    answer = f"{'. '.join(map(captions.capital, ratios))}.{more}"
    detail = "Equal labels need not mean equal settings: the differences are listed under Configuration."
    detail = f"{_together(pairs[:MAX_PAIRS])} {detail}".strip()
    return Finding(question, "Yes" if shown else "Not shown", answer, detail)


def _paired(study: Study, target: Target, first: Mapping[str, float], second: Mapping[str, float]) -> pd.DataFrame:
    """The scores by label of ``study`` and of another at the labels of both, [first, second], those that share noise
    once.

    Of fine-tunings of one pre-training, those of one number of labels count; lengths of one size are averaged.
    """
    both = pd.DataFrame({"first": pd.Series(first), "second": pd.Series(second)}, dtype="float64").dropna()
    if both.empty:
        return both
    rows = study.of(target.task)
    rows = at_equal_labels(study, rows[rows["label"].isin(both.index)])
    columns = ["params_backbone", *(f"config.{key}" for key in searched(study))]
    shared = rows.groupby("label")[columns].first().astype("str").agg(" ".join, axis=1)
    unknown = rows.groupby("label")["params_backbone"].first().isna()
    shared = shared.where(~unknown, shared.index.to_series())
    return both.loc[both.index.isin(shared.index)].groupby(shared.rename("shared"), sort=False).mean()


def render(studies: Studies) -> str:
    """Build the page. The same studies in the same order give the same bytes."""
    return fill(
        "side_by_side.html.j2",
        title=" beside ".join(studies),
        names=list(studies),
        findings=find(studies),
        studies=studies_table(studies),
        figures=[(plot, data_uri(plot)) for plot in plots(studies)],
        results=[laws_table(studies), *(scores_table(studies, target) for target in targets(studies))],
        settings=settings_table(studies),
        environment=environment_table(studies),
        notes=[f"{name}: {note}" for name, study in studies.items() for note in study.notes],
    )


def plots(studies: Studies) -> Iterator[Plot]:
    """The error of the studies against each axis that they scale, those of one axis in one figure."""
    for (target, axis), group in itertools.groupby(laws(studies), key=lambda entry: (entry[1].target, entry[1].axis)):
        yield several_plot(target, axis, dict(group), "study", "studies")


def studies_table(studies: Studies) -> Table:
    """A row for each study: its grid, how far it is, its sizes, best scores and cost."""
    measured = targets(studies)
    cells = []
    for name, study in studies.items():
        table = study.tried
        done = table[table["state"] == FINISHED]
        params = table["params_backbone"].dropna().astype("float64")
        ends = dict.fromkeys(map(text.count, (params.min(), params.max()))) if len(params) else [text.MISSING]
        best = [_best(done[done[CHOSEN]], target) for target in measured]
        cost = [text.power(float(done["flops_train"].sum())), text.count(float(done["wall_seconds"].sum()))]
        unfinished = table.loc[table["state"] != FINISHED, "state"].value_counts().sort_index()
        others = ", ".join(f"{count} {state}" for state, count in unfinished.items()) or text.MISSING
        grid, labels = study.grid or text.MISSING, f"{table['label'].nunique()} {noun(study)}s"
        cells.append([name, grid, others, labels, " to ".join(ends), f"{len(done)} of {len(table)}", *best, *cost])
    head = ["study", "grid", "not finished", "labels", "parameters N", "finished tasks"]
    head += [*(f"best {target.score}" for target in measured), "FLOPs", "seconds"]
    return Table("The studies", head, cells, text_columns=5)


def laws_table(studies: Studies) -> Table:
    """A row for each law of each study, or the reason why there is none."""
    cells = []
    for name, points in laws(studies):
        start = [name, f"{points.target.formula} against {points.axis.symbol}"]
        if isinstance(points.fit, PowerLawFit):
            fit = points.fit
            numbers = [text.number(fit.a), text.number(fit.b), text.interval(fit.b_interval)]
            numbers.append(text.places(fit.n, points.axis.point, fit.groups))
            cells.append([*start, *numbers, text.number(fit.residual_std), ""])
        else:
            cells.append([*start, *[text.MISSING] * 5, points.fit.reason])
    head = ["study", "law", "a", "exponent b", f"{text.LEVEL} interval of b", "n", "residual sd of log error", "remark"]
    note = f"Error = a x^{text.MINUS}b, fitted to the points of one study alone; n counts distinct x."
    return Table("Laws of each study", head, cells, text_columns=2, note=note, words_last=True)


def scores_table(studies: Studies, target: Target) -> Table:
    """Mean pretrained score of every label, a column for each study."""
    measured = scores(studies, target)
    labels = list(dict.fromkeys(label for scores_of_study in measured.values() for label in scores_of_study))
    params = pd.concat([study.table[["label", "params_backbone"]] for study in studies.values()]).groupby("label")
    size = params["params_backbone"].median().astype("float64").reindex(labels).fillna(float("inf"))
    ordered = sorted(labels, key=lambda label: (float(size[label]), labels.index(label)))
    nan = float("nan")
    cells = [
        [label, *(text.percent(scores_of_study.get(label, nan)) for scores_of_study in measured.values())]
        for label in ordered
    ]
    return Table(f"Mean {target.score} of pretrained runs", ["label", *measured], cells)


def settings_table(studies: Studies) -> Table:
    """The settings that are fixed within each study and differ between them."""
    shared = {name: shared_settings(study) for name, study in studies.items()}
    return _differences("Settings that differ", shared, "setting")


def environment_table(studies: Studies) -> Table:
    """Devices, commits, FLOPs conventions and package versions that differ between the studies."""
    met: dict[str, dict[str, str]] = {}
    for study_name, study in studies.items():
        met_values: dict[str, set[str]] = {}
        for result in study.results.values():
            facts = {name: result[name] for name in ("device_kind", "device_count", "commit", "flops_convention")}
            for name, value in {**facts, **result["versions"]}.items():
                met_values.setdefault(str(name), set()).add(str(value))
        met[study_name] = {name: ", ".join(sorted(values)) for name, values in sorted(met_values.items())}
    return _differences("Environment where it differs", met, "what")


def _differences(title: str, values: Mapping[str, Mapping[str, str]], what: str) -> Table:
    keys = sorted({key for settings in values.values() for key in settings})
    differing = [key for key in keys if len({settings.get(key) for settings in values.values() if settings}) > 1]
    cells = [[key, *(settings.get(key, text.MISSING) for settings in values.values())] for key in differing]
    note = "" if cells else "Nothing differs."
    return Table(title, [what, *values], cells, text_columns=1 + len(values), note=note, words_last=True)


def _best(rows: pd.DataFrame, target: Target) -> str:
    best = best_score(rows, target)
    return text.MISSING if best is None else text.percent(best)
