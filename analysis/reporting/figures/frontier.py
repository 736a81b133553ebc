"""Error against all the training FLOPs that went into it, and the best that any run reached for so much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.findings import text
from analysis.findings.series import PRETRAINED, SCRATCH, Target, finished
from analysis.reporting.figures import captions, drawing
from analysis.reporting.figures.drawing import INK
from analysis.reporting.figures.palette import Palette, palette, readable
from analysis.reporting.figures.plots import LOOKS, MARGIN, Plot
from analysis.study.records import Study

FEWEST_RUNS = 3


def spending(study: Study, target: Target) -> pd.DataFrame:
    """[label, run_id, init, flops, error] of every finished run: pre-training, where it has any, and its own task.

    Runs from other weights are not among them: what these have cost is not recorded.
    """
    rows = finished(study.table[study.table["task"] == target.task], target)
    rows = rows[rows["init"].isin([PRETRAINED, SCRATCH])]
    before = rows["pretrain_flops"].where(rows["init"] == PRETRAINED, 0.0)
    points = rows[["label", "run_id", "init"]].assign(
        flops=(before + rows["flops_train"]).astype("float64"),
        error=1 - rows[f"metrics.{target.metric}"].astype("float64"),
    )
    return points[(points["flops"] > 0) & (points["error"] > 0)]


def frontier(points: pd.DataFrame) -> pd.DataFrame:
    """The ``points`` that no other beats with as few FLOPs, cheapest first."""
    ordered = points.sort_values(["flops", "error", "run_id"], kind="stable")
    return ordered[ordered["error"] < ordered["error"].cummin().shift(fill_value=np.inf)]


def frontier_plot(study: Study, target: Target) -> Plot | None:
    """Draw every run and the envelope of the best; None for fewer than three runs."""
    points = spending(study, target)
    if len(points) < FEWEST_RUNS:
        return None
    best = frontier(points)
    with drawing.style():
        figure, axes = drawing.new_figure()
        axes.set(xlabel="training FLOPs, pretraining included", ylabel=f"{target.name} ({target.formula})")
        _draw(axes, points, best, palette(study))
    named = "; ".join(f"{_who(row)} {text.percent(row['error'])} for {text.power(row['flops'])}" for row in _rows(best))
    counted = text.counted(len(points), "finished run")
    caption = (
        f"{captions.capital(target.name)} against all training FLOPs of a run, log scales, n = {counted}. Line: the "
        "lowest error that any run reached with so many. It joins single runs, whose seeds it favours: no law."
    )
    alt = f"{captions.capital(target.name)} against training FLOPs, {counted}. On the frontier: {named}."
    return Plot(f"frontier-{target.task}", figure, caption, alt)


def _draw(axes: Axes, points: pd.DataFrame, best: pd.DataFrame, looks: Palette) -> None:
    low, high = float(points["flops"].min()) / MARGIN, float(points["flops"].max()) * MARGIN
    drawing.log_axis(axes, "x", low, high, text.power)
    errors = points["error"]
    drawing.log_axis(
        axes, "y", float(errors.min()) / MARGIN, min(float(errors.max()) * MARGIN, 1.15), text.round_percent
    )
    steps = [*best["flops"].to_numpy(float), high]
    reached = best["error"].to_numpy(float)
    axes.step(steps, [*reached, reached[-1]], where="post", color=INK, linewidth=1.4, label="frontier", zorder=1)
    groups = points["label"].map(looks.group_of)
    named = readable([group for group in looks.groups if (groups == group).any()])
    for init in (PRETRAINED, SCRATCH):
        if not (points["init"] == init).any():
            continue
        look = LOOKS[init]
        for group, own in points[points["init"] == init].groupby(groups, sort=False):
            x, y = own["flops"].to_numpy(float), own["error"].to_numpy(float)
            axes.plot(x, y, color=looks.colours[str(group)], linestyle="none", markersize=7, zorder=3, **look)
            if init == PRETRAINED and str(group) in named:
                drawing.name_below(axes, str(group), float(x.max()), float(y[x == x.max()].min()))
        axes.plot([], [], color=drawing.QUIET, linestyle="none", markersize=7, label=captions.NAMES[init], **look)
    drawing.legend_above(axes)


def _rows(best: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in best.to_dict("records")]


def _who(row: Mapping[str, Any]) -> str:
    return f"{row['label']}{' from scratch' if row['init'] == SCRATCH else ''}"
