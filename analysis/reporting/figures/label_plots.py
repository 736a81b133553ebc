"""Figures of settings that have no order of size: one row per label, in the order of the plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis.findings import text
from analysis.findings.series import label_order
from analysis.reporting.figures import captions, drawing
from analysis.reporting.figures.drawing import QUIET
from analysis.reporting.figures.palette import Palette, palette, readable
from analysis.reporting.figures.plots import Plot
from analysis.study.records import FINISHED, Study

ROW_HEIGHT, FRAME_HEIGHT = 0.48, 1.35  # inches: of one label, and of what surrounds them
MAX_ROWS = 40
KINDS: Mapping[str, Mapping[str, Any]] = {
    "embeddings": {"marker": "o", "fillstyle": "full"},
    "outputs": {"marker": "D", "fillstyle": "none"},
}


def height(rows: int) -> float:
    """Height in inches of a panel with so many labelled rows."""
    return FRAME_HEIGHT + ROW_HEIGHT * max(rows, 2)


def rank_by_label_plot(study: Study) -> Plot:
    """Draw the effective rank of embeddings and outputs at the end of pretraining, a row per label."""
    rows = study.table[(study.table["task"] == "pretrain") & (study.table["state"] == FINISHED)]
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
            _draw(axes, order, known, palette(study))
        else:
            drawing.say_empty(axes)
    caption = "Effective rank of patch embeddings and outputs after pretraining; near 1 (dotted) means collapse."
    if len(order) < len(known_order):
        caption += f" {len(order)} of {len(known_order)} settings are drawn."
    return Plot("effective-rank", figure, caption + captions.shared_pretraining(study), _alt(order, known))


def _draw(axes: Axes, order: Sequence[str], known: Mapping[str, pd.DataFrame], looks: Palette) -> None:
    axes.axvline(1, color=QUIET, linestyle=":", linewidth=1.5, zorder=0)
    for kind, points in known.items():
        look: dict[str, Any] = {"linestyle": "none", "markersize": 7, **KINDS[kind]}
        for label, own in points[points["label"].isin(order)].groupby("label", sort=False):
            place = [order.index(str(label))] * len(own)
            axes.plot(own["rank"].to_numpy(float), place, color=looks.colour(str(label)), **look)
        axes.plot([], [], color=QUIET, label=kind, **look)
    drawing.label_rows(axes, order)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.set_xlim(left=0)
    axes.margins(x=0.08)
    drawing.legend_above(axes)


def _alt(order: Sequence[str], known: Mapping[str, pd.DataFrame]) -> str:
    if not order:
        return "Effective rank: empty, no finished run reports it."
    means = {kind: points.groupby("label")["rank"].mean() for kind, points in known.items()}
    said = [
        f"{label} "
        + " and ".join(f"{text.number(mean.get(label, float('nan')))} ({kind})" for kind, mean in means.items())
        for label in order
    ]
    return f"Effective rank after pretraining: {'; '.join(said)}."
