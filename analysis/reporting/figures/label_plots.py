"""Figures that tell labels apart: a row for each, with the effective rank of settings that have no order of size and
the spread over seeds; and the error of several studies, or of several objectives of one, against what they scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from scipy import stats

from analysis.findings import text
from analysis.findings.series import FINETUNED, Axis, Series, Target, finished, label_order, leading
from analysis.fit.power_law import PowerLawFit
from analysis.fit.student import CONFIDENCE, Interval
from analysis.reporting.figures import captions, drawing
from analysis.reporting.figures.drawing import QUIET, Palette, palette, readable
from analysis.reporting.figures.plots import Plot, on_log_scales
from analysis.study.records import Study

ROW_HEIGHT, FRAME_HEIGHT = 0.48, 1.35  # inches: of one label, and of what surrounds them
MAX_ROWS = 40
KINDS: Mapping[str, Mapping[str, Any]] = {
    "embeddings": {"marker": "o", "fillstyle": "full"},
    "outputs": {"marker": "D", "fillstyle": "none"},
}
LOOKS: Sequence[tuple[str, str, Any]] = (  # Okabe and Ito's hues, told apart without colour by marker and dashes
    ("#0072b2", "o", "-"),
    ("#d55e00", "s", "--"),
    ("#009e73", "^", "-."),
    ("#8a5a80", "D", ":"),
    ("#000000", "v", (0, (5, 1, 1, 1, 1, 1))),
    ("#a6761d", "P", (0, (1, 3))),
)


def height(rows: int) -> float:
    """Height in inches of a panel with so many labelled rows."""
    return FRAME_HEIGHT + ROW_HEIGHT * max(rows, 2)


def rank_by_label_plot(study: Study) -> Plot:
    """Draw the effective rank of embeddings and outputs at the end of pretraining, a row per label."""
    rows = study.finished("pretrain")
    known = {
        kind: rows.dropna(subset=[column])[["label", column]].rename(columns={column: "rank"})
        for kind in KINDS
        if (column := f"metrics.effective_rank_{kind}") in rows
    }
    present = {str(label) for points in known.values() for label in points["label"]}
    known_order = [label for label in label_order(study) if label in present]
    order = readable(known_order, MAX_ROWS)
    with drawing.style():
        figure, (axes,) = drawing.new_panels(1, row_height=height(len(order)))
        axes.set(xlabel="effective rank")
        if order:
            _draw_ranks(axes, order, known, palette(study))
        else:
            drawing.mark_empty(axes)
    caption = "Effective rank of patch embeddings and outputs after pretraining; near 1 (dotted) means collapse."
    if len(order) < len(known_order):
        caption += f" {len(order)} of {len(known_order)} settings are drawn."
    return Plot("effective-rank", figure, caption + captions.shared_pretraining(study), _rank_alt(order, known))


def _draw_ranks(axes: Axes, order: Sequence[str], known: Mapping[str, pd.DataFrame], looks: Palette) -> None:
    axes.axvline(1, color=QUIET, linestyle=":", linewidth=1.5, zorder=0)
    for kind, points in known.items():
        look: dict[str, Any] = {"linestyle": "none", "markersize": 7, **KINDS[kind]}
        for label, label_points in points[points["label"].isin(order)].groupby("label", sort=False):
            row = [order.index(str(label))] * len(label_points)
            axes.plot(label_points["rank"].to_numpy(float), row, color=looks.colour(str(label)), **look)
        axes.plot([], [], color=QUIET, label=kind, **look)
    drawing.label_rows(axes, order)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.set_xlim(left=0)
    axes.margins(x=0.08)
    drawing.legend_above(axes)


def _rank_alt(order: Sequence[str], known: Mapping[str, pd.DataFrame]) -> str:
    if not order:
        return "Effective rank: empty, no finished run reports it."
    means = {kind: points.groupby("label")["rank"].mean() for kind, points in known.items()}
    said = [
        f"{label} "
        + " and ".join(f"{text.number(mean.get(label, float('nan')))} ({kind})" for kind, mean in means.items())
        for label in order
    ]
    return f"Effective rank after pretraining: {'; '.join(said)}."


@dataclass(frozen=True)
class Spread:
    """The pooled standard deviation of scores over seeds, its 95 % interval, and what it rests on."""

    deviation: float
    interval: Interval
    labels: int
    runs: int


def deviations(study: Study, target: Target) -> pd.DataFrame:
    """[label, deviation] of every finished run from the mean of its label, scratch aside; labels of two or more."""
    rows = leading(study.of(target.task))
    usable = finished(rows, target)
    points = pd.DataFrame({"label": usable["label"], "score": usable[target.column].astype("float64")})
    by_label = points.groupby("label")["score"]
    points = points.assign(deviation=points["score"] - by_label.transform("mean"))
    return points.loc[by_label.transform("size") > 1, ["label", "deviation"]]


def pooled(points: pd.DataFrame) -> Spread | None:
    """Pool the deviations of all labels (chi-square interval); None without any spread."""
    labels = points["label"].nunique()
    degrees = len(points) - labels
    squares = float((points["deviation"] ** 2).sum())
    if degrees < 1 or squares == 0:
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = (math.sqrt(squares / float(stats.chi2.ppf(level, degrees))) for level in (1 - tail, tail))
    return Spread(math.sqrt(squares / degrees), Interval(low, high), labels, len(points))


def seed_plot(study: Study) -> Plot | None:
    """Draw each run's distance from the mean of its label, a panel per score; None where nothing was repeated."""
    deviations_by_target = {target: deviations(study, target) for target in FINETUNED}
    spreads = {
        target: spread for target, points in deviations_by_target.items() if (spread := pooled(points)) is not None
    }
    if not spreads:
        return None
    present = {label for target in spreads for label in deviations_by_target[target]["label"]}
    every = [label for label in label_order(study) if label in present]
    order = readable(every, MAX_ROWS)
    with drawing.style():
        figure, panels = drawing.new_panels(len(spreads), row_height=height(len(order)))
        drawing.label_rows(panels[0], order)
        for axes, target in zip(panels, spreads, strict=True):
            _draw_spread(axes, deviations_by_target[target], order, palette(study))
            axes.set_xlabel(f"{target.score} (points)")
    said = [_spread_sentence(target, spread) for target, spread in spreads.items()]
    caption = (
        f"Distance of each run, not from scratch, from the mean of its label, in percentage points. {' '.join(said)} "
        "One deviation is assumed for all labels."
    )
    caption += f" {len(order)} of {len(every)} labels are drawn." if len(order) < len(every) else ""
    return Plot("seed-spread", figure, caption, f"Spread over seeds. {' '.join(said)}")


def _draw_spread(axes: Axes, points: pd.DataFrame, order: Sequence[str], looks: Palette) -> None:
    axes.axvline(0, color=QUIET, linewidth=1, zorder=0)
    for row, label in enumerate(order):
        label_deviations = 100 * points.loc[points["label"] == label, "deviation"].to_numpy(float)
        axes.plot(
            label_deviations,
            [row] * len(label_deviations),
            "o",
            color=looks.colour(label),
            markersize=6,
            fillstyle="none",
        )
    reach = 115 * float(points["deviation"].abs().max())
    axes.set_xlim(-reach, reach)


def _spread_sentence(target: Target, spread: Spread) -> str:
    low, high = (100 * end for end in (spread.interval.low, spread.interval.high))
    return (
        f"{captions.capital(target.score)}: standard deviation {100 * spread.deviation:.2g} points ({text.LEVEL} "
        f"interval {low:.2g} to {high:.2g}), n = {spread.runs} runs of {text.counted(spread.labels, 'label')}."
    )


def several_plot(target: Target, axis: Axis, every: Mapping[str, Series], one: str, several: str) -> Plot:
    """Draw the points and the law of each of ``every``, by its name; ``one`` of ``several`` says what each is of."""
    on_scales = {name: on_log_scales(points) for name, points in every.items()}
    entries = {name: points for name, points in on_scales.items() if not points.points.empty}
    shown = readable(list(entries), len(LOOKS))
    with drawing.style():
        figure, axes = drawing.new_figure()
        axes.set(xlabel=f"{axis.name} {axis.symbol}", ylabel=f"{target.name} ({target.formula})")
        if shown:
            _scales(axes, axis, [entries[name].points for name in shown])
            for name, look in zip(shown, LOOKS, strict=False):
                _draw(axes, name, entries[name], look)
            axes.legend(loc="best", fontsize="small")
        else:
            drawing.mark_empty(axes)
    caption = (
        f"{captions.capital(target.name)} against {axis.name}, log scales: pretrained runs and the power law of each "
        f"{one}, as far as its own points go."
    )
    if len(shown) < len(entries):
        caption += f" {len(shown)} of {len(entries)} {several} are drawn."
    alt = _alt(target, axis, {name: entries[name] for name in shown}, several)
    return Plot(f"{target.task}-{axis.symbol}", figure, caption, alt)


def _scales(axes: Axes, axis: Axis, drawn: Sequence[pd.DataFrame]) -> None:
    points = pd.concat(drawn)
    x, error = points["x"], points["error"]
    drawing.axis_around(axes, "x", x, captions.form(axis))
    drawing.error_axis(axes, error)


def _draw(axes: Axes, name: str, points: Series, look: tuple[str, str, Any]) -> None:
    colour, marker, line = look
    if isinstance(points.fit, PowerLawFit):
        x = np.geomspace(*points.fit.x_range, 60)
        axes.plot(x, points.fit.predict(x).y, color=colour, linestyle=line, linewidth=1.4, zorder=1)
    x, error = points.points["x"].to_numpy(float), points.points["error"].to_numpy(float)
    axes.plot(x, error, color=colour, linestyle="none", marker=marker, fillstyle="none", markersize=7, zorder=3)
    axes.plot([], [], color=colour, linestyle=line, marker=marker, fillstyle="none", label=drawing.short(name))


def _alt(target: Target, axis: Axis, entries: Mapping[str, Series], several: str) -> str:
    what = f"{captions.capital(target.name)} against {axis.name} of several {several}"
    if not entries:
        return f"{what}: empty, no finished run reports it."
    said = [f"{name}: {captions.one_series(points, axis)}" for name, points in entries.items()]
    return f"{what}. {' '.join(said)}"
