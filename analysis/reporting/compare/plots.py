"""Figures with several studies in one: a colour, a marker and a line for each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.findings import text
from analysis.findings.series import Axis, Series, Target
from analysis.fit.power_law import PowerLawFit
from analysis.reporting.compare.studies import Named, laws
from analysis.reporting.figures import captions, drawing
from analysis.reporting.figures.palette import readable
from analysis.reporting.figures.plots import MARGIN, Plot

LOOKS: Sequence[tuple[str, str, Any]] = (  # Okabe and Ito's hues, told apart without colour by marker and dashes
    ("#0072b2", "o", "-"),
    ("#d55e00", "s", "--"),
    ("#009e73", "^", "-."),
    ("#8a5a80", "D", ":"),
    ("#000000", "v", (0, (5, 1, 1, 1, 1, 1))),
    ("#a6761d", "P", (0, (1, 3))),
)


def plots(studies: Sequence[Named]) -> Iterator[Plot]:
    """The error of the studies against each axis that they scale, those of one axis in one figure."""
    for (target, axis), group in itertools.groupby(laws(studies), key=lambda entry: (entry[1].target, entry[1].axis)):
        drawn = {name: _on_log_scales(one) for name, one in group}
        yield _plot(target, axis, {name: one for name, one in drawn.items() if not one.points.empty})


def _on_log_scales(one: Series) -> Series:
    return replace(one, points=one.points[(one.points["x"] > 0) & (one.points["error"] > 0)])


def _plot(target: Target, axis: Axis, entries: Mapping[str, Series]) -> Plot:
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
            drawing.say_empty(axes)
    caption = (
        f"{captions.capital(target.name)} against {axis.name}, log scales: pretrained runs and the power law of each "
        "study, as far as its own points go."
    )
    if len(shown) < len(entries):
        caption += f" {len(shown)} of {len(entries)} studies are drawn."
    return Plot(f"{target.task}-{axis.symbol}", figure, caption, _alt(target, axis, {n: entries[n] for n in shown}))


def _scales(axes: Axes, axis: Axis, drawn: Sequence[pd.DataFrame]) -> None:
    points = pd.concat(drawn)
    x, error = points["x"], points["error"]
    drawing.log_axis(axes, "x", float(x.min()) / MARGIN, float(x.max()) * MARGIN, captions.form(axis))
    top = min(float(error.max()) * MARGIN, 1.15)
    drawing.log_axis(axes, "y", float(error.min()) / MARGIN, top, text.round_percent)


def _draw(axes: Axes, name: str, one: Series, look: tuple[str, str, Any]) -> None:
    colour, marker, line = look
    if isinstance(one.fit, PowerLawFit):
        x = np.geomspace(*one.fit.x_range, 60)
        axes.plot(x, one.fit.predict(x).y, color=colour, linestyle=line, linewidth=1.4, zorder=1)
    x, error = one.points["x"].to_numpy(float), one.points["error"].to_numpy(float)
    axes.plot(x, error, color=colour, linestyle="none", marker=marker, fillstyle="none", markersize=7, zorder=3)
    axes.plot([], [], color=colour, linestyle=line, marker=marker, fillstyle="none", label=drawing.short(name))


def _alt(target: Target, axis: Axis, entries: Mapping[str, Series]) -> str:
    what = f"{captions.capital(target.name)} against {axis.name} of several studies"
    if not entries:
        return f"{what}: empty, no finished run reports it."
    said = [f"{name}: {captions.one_series(one, axis)}" for name, one in entries.items()]
    return f"{what}. {' '.join(said)}"
