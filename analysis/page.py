"""The report page: what each section shows, put into the HTML template."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from analysis import text
from analysis.curves import curves
from analysis.drawing import to_svg
from analysis.findings import Comparison, Finding, comparison
from analysis.plots import Plot, curve_plot, error_plot, rank_plot
from analysis.records import FINISHED, TASKS, Study
from analysis.series import CLASSIFICATION, COMPUTE, PARAMETERS, SEGMENTATION, SHORTFALL, size_order

TITLES = {"pretrain": "Pretraining", "classify": "Classification", "segment": "Segmentation"}


@dataclass(frozen=True)
class Table:
    """A table of ready-made texts; the first ``text_columns`` columns are words, the rest numbers."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1


@dataclass(frozen=True)
class Cell:
    """One task of one run, in words."""

    state: str
    progress: str
    error: str


def render(study: Study, findings: Sequence[Finding]) -> str:
    """Build the whole page. The same study gives the same bytes; nothing in it points outside the page."""
    logged = curves(study)
    figures = [(plot, _data_uri(plot)) for plot in _plots(study, logged.table)]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["superscript"] = _superscript
    return environment.get_template("report.html.j2").render(
        study=study,
        summary=list(_summary(study)),
        findings=findings,
        comparisons=[_comparison_table(comparison(study, target)) for target in _downstream(study)],
        figures=figures,
        results=[table for task in TASKS if (table := _result_table(study, task)).rows],
        states=_states(study),
        tasks=[(task, TITLES[task]) for task in TASKS if (study.table["task"] == task).any()],
        varied=_varied(study),
        shared=_shared(study),
        environment=_environment(study),
        conventions=sorted({str(result["flops_convention"]) for result in study.results.values()}),
        notes=[*study.notes, *logged.notes],
    )


def _plots(study: Study, logged: pd.DataFrame) -> Iterator[Plot]:
    for target in _downstream(study):
        for axis in (PARAMETERS, COMPUTE):
            yield error_plot(study, target, axis)
    if (study.table["task"] == "pretrain").any():
        yield error_plot(study, SHORTFALL, PARAMETERS)
        yield curve_plot(study, logged, "eval_skill", "skill (evaluation)")
        yield curve_plot(study, logged, "loss", f"training loss ({text.MINUS}cosine)")
        yield rank_plot(study)


def _downstream(study: Study) -> list[Any]:
    return [target for target in (CLASSIFICATION, SEGMENTATION) if (study.table["task"] == target.task).any()]


def _superscript(sentence: str) -> Markup:
    """Escape ``sentence`` and raise the exponents written as ``N^0.2``."""
    return Markup(re.sub(rf"\^({text.MINUS}?[\d.]+\d)", r"<sup>\1</sup>", str(escape(sentence))))


def _data_uri(plot: Plot) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(to_svg(plot.figure).encode()).decode()


def _summary(study: Study) -> Iterator[tuple[str, str]]:
    """Headline facts: (name, value)."""
    table = study.table
    done = table["state"] == FINISHED
    params = table["params_backbone"].dropna().astype("float64")
    yield "tasks finished", f"{int(done.sum())} of {len(table)}"
    yield "runs", str(table["run_id"].nunique())
    yield "sizes", str(table["label"].nunique())
    if len(params):
        yield "backbone parameters", f"{text.count(params.min())} to {text.count(params.max())}"
    for target in _downstream(study):
        scores = table.loc[done].get(f"metrics.{target.metric}", pd.Series(dtype="float64")).dropna()
        if len(scores):
            yield f"best {target.score}", text.percent(float(scores.max()))


def _comparison_table(compared: Comparison) -> Table:
    """Scores of each size with their margins over the scratch control and the trivial answer."""
    rows = []
    for label, row in compared.rows.iterrows():
        pretrained, scratch, trivial = float(row["pretrained"]), float(row["scratch"]), float(row["trivial"])
        scores = [text.percent(value) for value in (pretrained, scratch, trivial)]
        margins = (pretrained - scratch, pretrained - trivial, scratch - trivial)
        rows.append([str(label), *scores, *map(text.points, margins)])
    pairs = (("pretrained", "scratch"), ("pretrained", "trivial"), ("scratch", "trivial"))
    head = ["size", "pretrained", "scratch", "trivial", *(f"{a} {text.MINUS} {b}" for a, b in pairs)]
    title = f"{TITLES[compared.target.task]}: {compared.target.score} of each size and of the trivial answer"
    return Table(title, head, rows)


_PERCENT, _NUMBER, _COUNT, _POWER = text.percent, text.number, text.count, text.power
_MEASURED: Mapping[str, Sequence[tuple[str, str, Callable[[float], str]]]] = {
    "pretrain": (
        ("skill", "metrics.skill", _NUMBER),
        ("loss", "metrics.loss", _NUMBER),
        ("copy baseline", "metrics.copy_baseline", _NUMBER),
        ("mean baseline", "metrics.mean_baseline", _NUMBER),
        ("rank of embeddings", "metrics.effective_rank_embeddings", _NUMBER),
        ("rank of outputs", "metrics.effective_rank_outputs", _NUMBER),
    ),
    "classify": (
        ("top-1", "metrics.top1", _PERCENT),
        ("top-5", "metrics.top5", _PERCENT),
        ("loss", "metrics.loss", _NUMBER),
        ("top-1 of majority class", "metrics.top1_majority", _PERCENT),
    ),
    "segment": (
        ("mIoU", "metrics.miou", _PERCENT),
        ("pixel accuracy", "metrics.pixel_accuracy", _PERCENT),
        ("loss", "metrics.loss", _NUMBER),
        ("mIoU of background only", "metrics.miou_majority", _PERCENT),
    ),
}
_COMMON: Sequence[tuple[str, str, Callable[[float], str]]] = (
    ("parameters N", "params_backbone", _COUNT),
    ("all parameters", "params_total", _COUNT),
    ("images seen", "images_seen", _COUNT),
    ("unique images", "unique_images", _COUNT),
    ("FLOPs", "flops_train", _POWER),
    ("seconds", "wall_seconds", _COUNT),
)


def _result_table(study: Study, task: str) -> Table:
    rows = study.table[(study.table["task"] == task) & (study.table["state"] == FINISHED)]
    columns = [column for column in (*_MEASURED[task], *_COMMON) if column[1] in rows]
    seeds = rows["seed"].map(str, na_action="ignore").fillna(text.MISSING)
    words = [rows["label"], rows["init"].fillna(text.MISSING), seeds]
    numbers = [[form(float(v)) for v in rows[name].astype("float64").fillna(float("nan"))] for _, name, form in columns]
    head = ["size", "start", "seed", *(title for title, _, _ in columns), "run"]
    cells = list(zip(*(map(str, column) for column in words), *numbers, rows["run_id"], strict=True))
    return Table(TITLES[task], head, _by_size(study, cells), text_columns=3)


def _by_size(study: Study, cells: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    rank = {label: i for i, label in enumerate(size_order(study))}
    return sorted(cells, key=lambda row: (rank[row[0]], row[1], row[2]))


def _states(study: Study) -> list[tuple[str, str, str, dict[str, Cell]]]:
    """(size, start, run, task -> cell) for every run, finished or not."""
    found = []
    for run_id, rows in study.table.groupby("run_id", sort=False):
        cells = {str(row["task"]): _cell(row) for row in rows.to_dict("records")}
        first = rows.iloc[0]
        start = text.MISSING if pd.isna(first["init"]) else str(first["init"])
        found.append((str(first["label"]), start, str(run_id), cells))
    rank = {label: i for i, label in enumerate(size_order(study))}
    return sorted(found, key=lambda row: (rank[row[0]], row[1], row[2]))


def _cell(row: Mapping[Any, Any]) -> Cell:
    step, total = row["step"], row["steps_total"]
    progress = "" if pd.isna(step) or pd.isna(total) else f"step {step} of {total}"
    return Cell(str(row["state"]), progress, "" if pd.isna(row["error"]) else str(row["error"]))


def _varied(study: Study) -> list[tuple[str, str]]:
    """(key, its values) for what the plan varies."""
    values = {axis: study.table[f"config.{axis}"].dropna().drop_duplicates() for axis in study.axes}
    return [(axis, ", ".join(map(str, column))) for axis, column in values.items()]


def _shared(study: Study) -> list[tuple[str, str]]:
    """(key, value) for every setting that all finished runs have in common."""
    spelt = [
        {key: json.dumps(value, sort_keys=True) for key, value in r["config"].items()} for r in study.results.values()
    ]
    if not spelt:
        return []
    common = {key: value for key, value in spelt[0].items() if all(other.get(key) == value for other in spelt)}
    return sorted((key, value) for key, value in common.items() if key not in study.axes)


def _environment(study: Study) -> list[tuple[str, str]]:
    """(what, values met) for devices, commits and package versions over all results."""
    met: dict[str, set[str]] = {}
    for result in study.results.values():
        facts = {
            "device": f"{result['device_count']} {text.TIMES} {result['device_kind']}",
            "commit": result["commit"] or "unknown",
        }
        for name, value in {**facts, **result["versions"]}.items():
            met.setdefault(str(name), set()).add(str(value))
    return [(name, ", ".join(sorted(values))) for name, values in met.items()]
