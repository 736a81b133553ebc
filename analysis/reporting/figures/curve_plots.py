"""Logged curves against images seen: read, averaged and drawn, a line for a single run, a mean with its range where
several share a look."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.findings import text
from analysis.findings.series import label_order, leading, noun, scales_sizes
from analysis.laws.law import Array
from analysis.reporting.figures import captions, drawing
from analysis.reporting.figures.drawing import MAX_GROUPS, Palette, palette, readable
from analysis.reporting.figures.plots import Plot
from analysis.study.metrics_file import Line, averaged, read_metrics
from analysis.study.records import Study
from nepa_scale.config.registry import spec

MARKED_POINTS = 20
BAND_POINTS = 200
MAX_POINTS = 300
MAX_THREADS = 8
Key = tuple[str, str]
"""Task and metric."""


def curve_plot(study: Study, logged: Curves, metric: str, name: str, task: str = "pretrain") -> Plot:
    """Draw a logged ``metric`` of ``task`` against images seen, by label, or by size where labels are too many."""
    looks, during = palette(study), spec(task).phase
    curves = logged.of(task, metric)
    by_label, groups = _grouped(study, curves, looks)
    shown = readable(list(groups))
    with drawing.style():
        figure, axes = drawing.new_figure()
        axes.set(xlabel=f"images seen in {during}", ylabel=name)
        if shown:
            _draw(axes, {group: groups[group] for group in shown}, looks)
        else:
            drawing.mark_empty(axes)
    caption = f"{captions.capital(name)} during {during}: {_lines(groups)}, {_styles(study, by_label=by_label)}."
    if len(shown) < len(groups):
        caption += f" {len(shown)} of {text.counted(len(groups), noun(study) if by_label else 'size')} are drawn."
    caption += _not_logged(study, curves, task)
    caption += captions.shared_pretraining(study) if task == "pretrain" else ""
    alt = _alt({group: groups[group] for group in shown}, name, during)
    return Plot(f"curve-{task}-{metric}", figure, caption, alt)


def _grouped(study: Study, curves: Sequence[Curve], looks: Palette) -> tuple[bool, dict[str, list[Curve]]]:
    """Curves in the study's order: by label if these are few enough to distinguish (True), else by group."""
    labels = {curve.label for curve in curves}
    by_label = len(labels) <= max(MAX_GROUPS, len({looks.group_of[label] for label in labels}))
    order = label_order(study) if by_label else looks.groups
    curves_by_name: dict[str, list[Curve]] = {name: [] for name in order}
    for curve in curves:
        curves_by_name[curve.label if by_label else looks.group_of[curve.label]].append(curve)
    return by_label, {name: members for name, members in curves_by_name.items() if members}


def _styles(study: Study, *, by_label: bool) -> str:
    by = "size" if scales_sizes(study) else "setting"
    if noun(study) == by:
        return f"colour and line style by {by}"
    return "colour by size, line style by setting" if by_label else "by size, all settings of a size together"


def _lines(groups: Mapping[str, Sequence[Curve]]) -> str:
    most = max(map(len, groups.values()), default=0)
    if most <= 1:
        return "one line per run"
    return f"line, the mean over the runs that got so far (up to {most}); band, their lowest to highest value"


def _not_logged(study: Study, curves: Sequence[Curve], task: str) -> str:
    """Say of how many finished runs there are curves, where some have none."""
    finished = set(study.finished(task)["run_id"])
    logged = len(finished & {curve.run_id for curve in curves})
    missing = 0 < logged < len(finished)
    return f" {logged} of {text.counted(len(finished), 'finished run')} have such a log here." if missing else ""


def _draw(axes: Axes, groups: Mapping[str, Sequence[Curve]], looks: Palette) -> None:
    handles = []
    for name, members in groups.items():
        colour, dashes = looks.colours[looks.group_of.get(name, name)], looks.dashes[name] or (1, 0)
        x, mean = (members[0].images, members[0].values) if len(members) == 1 else _draw_band(axes, members, colour)
        marker = "o" if len(x) <= MARKED_POINTS else ""  # a line of one point would not show at all
        axes.plot(x, mean, color=colour, dashes=dashes, linewidth=1.4, marker=marker, markersize=5)
        handles.append(axes.plot([], [], color=colour, dashes=dashes)[0])
    axes.legend(handles, [drawing.short(name) for name in groups], loc="best", fontsize="small")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text.count(value)))


def _draw_band(axes: Axes, curves: Sequence[Curve], colour: object) -> tuple[Array, Array]:
    """Fill between the lowest and the highest of several runs; return where their mean goes."""
    first, last = min(c.images[0] for c in curves), max(c.images[-1] for c in curves)
    x = np.linspace(first, last, BAND_POINTS) if last > first else np.array([first])
    every = np.stack([np.interp(x, c.images, c.values, left=np.nan, right=np.nan) for c in curves])
    known = np.isfinite(every).any(axis=0)
    x, every = x[known], every[:, known]
    axes.fill_between(x, np.nanmin(every, axis=0), np.nanmax(every, axis=0), color=colour, alpha=0.2, linewidth=0)
    return x, np.nanmean(every, axis=0)


@dataclass(frozen=True)
class Curve:
    """One metric of one run over images seen [n], at most ``MAX_POINTS`` means of neighbouring steps."""

    run_id: str
    label: str
    images: Array
    values: Array


@dataclass(frozen=True)
class Curves:
    """Curves by task and metric, in the order of the study's runs, and what had to be left out."""

    found: Mapping[Key, Sequence[Curve]]
    notes: tuple[str, ...]

    def of(self, task: str, metric: str) -> Sequence[Curve]:
        """The curves of a metric; none where it was not requested or not logged."""
        return self.found.get((task, metric), ())


def curves(study: Study, wanted: Mapping[str, Sequence[str]]) -> Curves:
    """Read the ``wanted`` metrics of each task from the metrics.jsonl files of the runs, file by file."""
    rows = pd.concat([leading(study.of(task)) for task in wanted]).sort_index()
    runs = list(rows[["run_id", "task", "label"]].itertuples(index=False, name=None))

    def read(run: tuple[str, str, str]) -> tuple[dict[str, Curve], int]:
        run_id, task, label = run
        lines, unreadable = read_metrics(_path(study, run_id, task), wanted[task])
        return {metric: _curve(run_id, label, line) for metric, line in lines.items()}, unreadable

    curves_by_key: dict[Key, list[Curve]] = {}
    notes = []
    with ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_THREADS)) as pool:  # reading and parsing leave Python's lock
        for (run_id, task, _), (curves_of_run, unreadable) in zip(runs, pool.map(read, runs), strict=True):
            for metric, curve in curves_of_run.items():
                if len(curve.values):
                    curves_by_key.setdefault((task, metric), []).append(curve)
            if unreadable:
                notes.append(f"{run_id}/{task}/metrics.jsonl: {text.counted(unreadable, 'unreadable line')} left out.")
    return Curves(curves_by_key, tuple(notes))


def _path(study: Study, run_id: str, task: str) -> Path:
    return study.path / "runs" / run_id / task / "metrics.jsonl"


def _curve(run_id: str, label: str, line: Line) -> Curve:
    usable = np.isfinite(line.images) & np.isfinite(line.values)
    images, values = (averaged(column[usable], MAX_POINTS) for column in (line.images, line.values))
    return Curve(run_id, label, images, values)


def _alt(groups: Mapping[str, Sequence[Curve]], name: str, during: str) -> str:
    """Say where the curves of each group begin and end, on average."""
    if not groups:
        return captions.empty(captions.capital(name))
    said = []
    for group, curves in groups.items():
        first, last = (float(np.mean([curve.values[end] for curve in curves])) for end in (0, -1))
        said.append(f"{group} from {text.number(first)} to {text.number(last)}")
    images = text.count(max(float(curve.images[-1]) for curves in groups.values() for curve in curves))
    return f"{captions.capital(name)} over up to {images} images of {during}: {'; '.join(said)}."
