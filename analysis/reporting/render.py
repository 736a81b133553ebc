"""The report page: what each section shows, put into the HTML template."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from analysis.findings import text
from analysis.findings.comparison import comparison, near_baseline
from analysis.findings.finding import Finding
from analysis.findings.headline import Headline, about, headline, resolution
from analysis.findings.other_sets import evaluated
from analysis.findings.scaling import of_objectives
from analysis.findings.series import (
    ARMS,
    CLASSIFICATION,
    COMPUTE,
    PARAMETERS,
    SHORTFALL,
    best_score,
    finished,
    label_order,
    leading,
    measured,
    noun,
    scaled_axes,
    scales_sizes,
    size_order,
    starts,
)
from analysis.reporting.compare import shared_settings
from analysis.reporting.figures.compute_plots import cost_plot, frontier_plot, isoflop_plot
from analysis.reporting.figures.curve_plots import Curves, curve_plot, curves
from analysis.reporting.figures.headline_plot import leading_plot
from analysis.reporting.figures.label_plots import rank_by_label_plot, seed_plot, several_plot
from analysis.reporting.figures.plots import Plot, error_plot, rank_plot, residual_plot
from analysis.reporting.figures.probe_plots import layers_plot, sheets
from analysis.reporting.figures.sensitivity import few_labels_plot, sensitivity_plot, settings, tuned_plot
from analysis.reporting.page import (
    MAX_OPEN,
    TITLES,
    class_iou_table,
    comparison_table,
    data_uri,
    expected_of,
    fill,
    result_table,
    states_table,
)
from analysis.reporting.paper_effects import is_ablation
from analysis.reporting.paper_tables import EPOCHS_GRID, beside_the_paper
from analysis.study.files import number
from analysis.study.records import FINISHED, Study
from nepa_scale.config.registry import TASKS

_CURVES = (("eval_skill", "skill (evaluation)"), ("loss", f"training loss ({text.MINUS}cosine)"))
_SETTING_CURVES = (
    ("pretrain", "eval_effective_rank_embeddings", "effective rank of embeddings"),
    ("classify", "loss", "fine-tuning loss"),
)


@dataclass(frozen=True)
class Cell:
    """One task of one run, as text."""

    state: str
    progress: str
    error: str
    expected: str = ""
    """What a pre-training under way is expected to end with."""


State = tuple[str, str, str, dict[str, Cell]]


@dataclass(frozen=True)
class Lead:
    """The figure that the page opens with, as addresses that carry it."""

    plot: Plot
    wide: str
    narrow: str
    """For the width of a phone."""


def render(study: Study, findings: Sequence[Finding]) -> str:
    """Build the page. The same study gives the same bytes; nothing in it points outside the page."""
    logged = curves(study, _wanted(study))
    said = headline(study, findings)
    beside, pictures = beside_the_paper(study), sheets(study)
    return fill(
        "report.html.j2",
        title=f"{study.name}: scaling report",
        study=study,
        headline=said,
        lead=None if said is None else _lead(study, said),
        about=about(study),
        resolution=resolution(study),
        near_baseline=near_baseline(study),
        summary=list(_summary(study)),
        findings=findings,
        comparisons=[comparison_table(comparison(study, target)) for target in measured(study)],
        figures=_with_uris(_answering(study)),
        more_figures=_with_uris(_plots(study, logged)),
        noun=noun(study),
        beside_tables=beside.tables,
        beside_figures=_with_uris(beside.plots),
        beside_answers=is_ablation(study) or study.grid == EPOCHS_GRID,
        sheets=pictures.shown,
        results=[table for task in TASKS if (table := result_table(study, task)).rows]
        + [table for table in [class_iou_table(study)] if table],
        states=_states(study),
        unfinished=states_table(study),
        all_finished=bool((study.table["state"] == FINISHED).all()),
        max_open=MAX_OPEN,
        tasks=[(task, TITLES[task]) for task in TASKS if len(study.of(task))],
        varied=_varied(study),
        shared=list(shared_settings(study).items()),
        environment=_environment(study),
        conventions=sorted({str(result["flops_convention"] or "not recorded") for result in study.results.values()}),
        notes=[*study.notes, *logged.notes, *pictures.notes],
    )


def _lead(study: Study, said: Headline) -> Lead | None:
    wide, narrow = (leading_plot(study, said.target, stacked=stacked) for stacked in (False, True))
    return None if wide is None or narrow is None else Lead(wide, data_uri(wide), data_uri(narrow))


def _with_uris(plots: Iterable[Plot]) -> list[tuple[Plot, str]]:
    return [(plot, data_uri(plot)) for plot in plots]


def _answering(study: Study) -> Iterator[Plot]:
    """Figures of what the answers are about."""
    for target in measured(study):
        for axis in scaled_axes(study):
            yield error_plot(study, target, axis)
    for target in measured(study):
        if arms := of_objectives(study, target):
            plot = several_plot(target, COMPUTE, arms, "objective", "objectives")
            yield replace(plot, name=f"objectives-{plot.name}")
    for target in evaluated(study):
        for axis in scaled_axes(study)[:1]:
            plot = error_plot(study, target, axis)
            yield replace(plot, name=f"{plot.name}-{target.metric.rpartition('/')[2]}")
    yield from filter(None, (few_labels_plot(study, target) for target in measured(study)))
    yield from filter(None, (isoflop_plot(study, target) for target in (*measured(study), SHORTFALL)))


def _plots(study: Study, logged: Curves) -> Iterator[Plot]:
    """Figures of what lies behind them."""
    axes = scaled_axes(study)
    if len(study.of("pretrain")):
        yield from (error_plot(study, SHORTFALL, axis) for axis in axes[:1])
        for metric, name in _CURVES:
            if logged.of("pretrain", metric) or study.finished("pretrain").empty:  # no curves of records without logs
                yield curve_plot(study, logged, metric, name)
        yield rank_plot(study) if PARAMETERS in axes else rank_by_label_plot(study)
    if not scales_sizes(study):
        yield from _setting_curves(study, logged)
    yield from filter(None, _where_known(study))


def _where_known(study: Study) -> Iterator[Plot | None]:
    """Figures that a study has only if it measured what they show."""
    for target in (*measured(study), SHORTFALL):
        yield from (sensitivity_plot(study, target, key) for key in settings(study))
    for target in measured(study):
        yield frontier_plot(study, target)
    yield from (tuned_plot(study, key) for key in study.tuned)
    yield residual_plot(study)
    yield seed_plot(study)
    yield layers_plot(study)
    yield cost_plot(study)


def _setting_curves(study: Study, logged: Curves) -> Iterator[Plot]:
    """Curves that show the effect of a setting: ranks during training, and whether fine-tuning diverged."""
    for task, metric, name in _SETTING_CURVES:
        if logged.of(task, metric):
            yield curve_plot(study, logged, metric, name, task)


def _wanted(study: Study) -> dict[str, list[str]]:
    """The logged metrics that ``_plots`` draws, by task."""
    wanted = {"pretrain": [metric for metric, _ in _CURVES]}
    for task, metric, _ in () if scales_sizes(study) else _SETTING_CURVES:
        wanted.setdefault(task, []).append(metric)
    return wanted


def _summary(study: Study) -> Iterator[tuple[str, str]]:
    """Headline facts: (name, value)."""
    table = study.tried
    done = table["state"] == FINISHED
    params = table["params_backbone"].dropna().astype("float64")
    yield "tasks finished", f"{int(done.sum())} of {len(table)}"
    yield "runs", str(table["run_id"].nunique())
    yield f"{noun(study)}s", str(table["label"].nunique())
    if noun(study) == "setting" and scales_sizes(study):
        yield "sizes", str(len(size_order(study)))
    if len(params):
        ends = dict.fromkeys(map(text.count, (params.min(), params.max())))
        yield "backbone parameters", " to ".join(ends)
    images = leading(table[table["task"] == CLASSIFICATION.task])["validation_images"].dropna()
    if len(images):
        yield "validation images", text.integers(images)
    for target in measured(study):
        best = best_score(study.table, target)
        if best is not None:
            start = starts(finished(study.of(target.task), target))[0]
            yield f"best {target.score}, {ARMS[start]}", text.percent(best)


def _states(study: Study) -> list[State]:
    """(label, start, run, task -> cell) for every run, finished or not."""
    states: dict[str, State] = {}
    names = ["run_id", "label", "init", "task", "state", "step", "steps_total", "error"]
    for row in study.tried[names].to_dict("records"):
        start = text.MISSING if pd.isna(row["init"]) else str(row["init"])
        new: State = (str(row["label"]), start, str(row["run_id"]), {})
        states.setdefault(str(row["run_id"]), new)[3][str(row["task"])] = _cell(row, expected_of(study, row))
    rank = {label: i for i, label in enumerate(label_order(study))}
    return sorted(states.values(), key=lambda row: (rank[row[0]], row[1], row[2]))


def _cell(row: Mapping[Any, Any], expected: str) -> Cell:
    step, total = row["step"], row["steps_total"]
    progress = "" if pd.isna(step) or pd.isna(total) else f"step {step} of {total}"
    return Cell(str(row["state"]), progress, "" if pd.isna(row["error"]) else str(row["error"]), expected)


def _varied(study: Study) -> list[tuple[str, str]]:
    """(key, its values) for what the plan varies."""
    values = {
        axis: study.tried[f"config.{axis}"].dropna().drop_duplicates()
        for axis in dict.fromkeys((*study.axes, *study.tuned))
    }
    return [(axis, ", ".join(map(str, column))) for axis, column in values.items()]


def _environment(study: Study) -> list[tuple[str, str]]:
    """(what, values met) for devices, commits and package versions over all results."""
    met: dict[str, set[str]] = {}
    for result in study.results.values():
        count, kind = number(result["device_count"]), result["device_kind"] or "unknown"
        device = kind if count is None else f"{count:.0f} {text.TIMES} {kind}"
        facts = {"device": device, "commit": result["commit"] or "unknown"}
        for name, value in {**facts, **result["versions"]}.items():
            met.setdefault(str(name), set()).add(str(value))
    return [(name, ", ".join(sorted(values))) for name, values in met.items()]
