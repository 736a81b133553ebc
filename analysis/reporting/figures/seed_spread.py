"""How far runs that differ in nothing but their seed lie apart: the noise that every comparison has to beat."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from scipy import stats

from analysis.findings import text
from analysis.findings.series import CLASSIFICATION, SEGMENTATION, Target, finished, label_order, leading
from analysis.fit.student import CONFIDENCE, Interval
from analysis.reporting.figures import captions, drawing
from analysis.reporting.figures.drawing import QUIET
from analysis.reporting.figures.label_plots import MAX_ROWS, height
from analysis.reporting.figures.palette import Palette, palette, readable
from analysis.reporting.figures.plots import Plot
from analysis.study.records import Study


@dataclass(frozen=True)
class Spread:
    """The pooled standard deviation of scores over seeds, its 95 % interval, and what it rests on."""

    deviation: float
    interval: Interval
    labels: int
    runs: int


def deviations(study: Study, target: Target) -> pd.DataFrame:
    """[label, deviation] of every finished run from the mean of its label, scratch aside; labels of two or more."""
    rows = leading(study.table[study.table["task"] == target.task])
    usable = finished(rows, target)
    points = pd.DataFrame({"label": usable["label"], "score": usable[f"metrics.{target.metric}"].astype("float64")})
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
    found = {target: deviations(study, target) for target in (CLASSIFICATION, SEGMENTATION)}
    spreads = {target: spread for target, points in found.items() if (spread := pooled(points)) is not None}
    if not spreads:
        return None
    present = {label for target in spreads for label in found[target]["label"]}
    every = [label for label in label_order(study) if label in present]
    order = readable(every, MAX_ROWS)
    with drawing.style():
        figure, panels = drawing.new_panels(len(spreads), row_height=height(len(order)))
        drawing.label_rows(panels[0], order)
        for axes, target in zip(panels, spreads, strict=True):
            _draw(axes, found[target], order, palette(study))
            axes.set_xlabel(f"{target.score} (points)")
    said = [_said(target, spread) for target, spread in spreads.items()]
    caption = (
        f"Distance of each run, not from scratch, from the mean of its label, in percentage points. {' '.join(said)} "
        "One deviation is assumed for all labels."
    )
    caption += f" {len(order)} of {len(every)} labels are drawn." if len(order) < len(every) else ""
    return Plot("seed-spread", figure, caption, f"Spread over seeds. {' '.join(said)}")


def _draw(axes: Axes, points: pd.DataFrame, order: Sequence[str], looks: Palette) -> None:
    axes.axvline(0, color=QUIET, linewidth=1, zorder=0)
    for place, label in enumerate(order):
        own = 100 * points.loc[points["label"] == label, "deviation"].to_numpy(float)
        axes.plot(own, [place] * len(own), "o", color=looks.colour(label), markersize=6, fillstyle="none")
    reach = 115 * float(points["deviation"].abs().max())
    axes.set_xlim(-reach, reach)


def _said(target: Target, spread: Spread) -> str:
    low, high = (100 * end for end in (spread.interval.low, spread.interval.high))
    return (
        f"{captions.capital(target.score)}: standard deviation {100 * spread.deviation:.2g} points ({text.LEVEL} "
        f"interval {low:.2g} to {high:.2g}), n = {spread.runs} runs of {text.counted(spread.labels, 'label')}."
    )
