"""IsoFLOP profiles: the error of every size at equal compute, with a parabola and its minimum for each budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from analysis.findings import text
from analysis.findings.series import Target
from analysis.findings.two_axes import surface_points
from analysis.fit.student import Interval, NoFit
from analysis.isoflop.allocation import FEWEST_SIZES, Allocation, Optimum, optima, same_budgets, through
from analysis.isoflop.minimum import Parabola, parabola_minimum, parabola_through
from analysis.laws.law import Array
from analysis.reporting.figures import captions, drawing
from analysis.reporting.figures.drawing import INK, readable
from analysis.reporting.figures.plots import MARGIN, Plot
from analysis.study.records import Study

MARKERS = "osD^vP*XdhH8"


@dataclass(frozen=True)
class Minimum:
    """The star of a budget: where its parabola is lowest."""

    size: float
    error: float
    interval: Interval


@dataclass(frozen=True)
class Profile:
    """The mean error of every size [n] at one budget, the parabola over log N, and its minimum where it has one."""

    budget: float
    sizes: Array
    errors: Array
    parabola: Parabola
    best: Minimum | None


def profiles(points: pd.DataFrame) -> tuple[list[Profile], Allocation | NoFit]:
    """The profile of every budget with at least four sizes, cheapest first, and the law through the minima."""
    budget, n, error = (points[name].to_numpy(float) for name in ("c", "n", "error"))
    found = optima(same_budgets(budget), n, error, parabola_minimum)
    return [_profile(one) for one in found if len(one.tried) >= FEWEST_SIZES], through(found)


def _profile(one: Optimum) -> Profile:
    parabola = parabola_through(np.log(one.tried), one.loss)
    best = None
    if one.log_n is not None and one.interval is not None:
        best = Minimum(float(np.exp(one.log_n)), float(parabola.at(np.array([one.log_n]))[0]), one.interval)
    return Profile(one.budget, one.tried, one.loss, parabola, best)


def isoflop_plot(study: Study, target: Target) -> Plot | None:
    """Draw the profiles of ``target``; None where fewer than two budgets have four sizes, or errors are equal."""
    points = surface_points(study, target)
    if points["error"].nunique() < 2:  # none, or all equal: a minimum would be one of rounding
        return None
    found, law = profiles(points)
    if len(found) < 2:
        return None
    shown = [found[i] for i in map(int, readable(list(map(str, range(len(found))))))]
    with drawing.style():
        figure, axes = drawing.new_figure()
        axes.set(xlabel="backbone parameters N", ylabel=f"{target.name} ({target.formula})")
        _draw(axes, shown)
    caption = (
        f"{captions.capital(target.name)} against size at equal pretraining FLOPs (colour, marker and dashes by "
        f"budget), seeds averaged. Lines: parabolas in log N; stars: their minima; bars: {text.LEVEL} intervals of "
        f"these (Fieller), an arrow where one goes beyond the sizes tried. {_law(law)}"
    )
    caption += f" {len(shown)} of {len(found)} budgets are drawn." if len(shown) < len(found) else ""
    each = "; ".join(f"{text.power(one.budget)} FLOPs: {_minimum(one)}" for one in shown)
    alt = f"{captions.capital(target.name)} against size at {len(found)} budgets. {each}."
    return Plot(f"isoflop-{target.task}", figure, caption, alt)


def _draw(axes: Axes, shown: list[Profile]) -> None:
    every = np.concatenate([one.sizes for one in shown])
    drawing.log_axis(axes, "x", float(every.min()) / MARGIN, float(every.max()) * MARGIN, text.count)
    axes.yaxis.set_major_formatter(lambda value, _: text.round_percent(value))
    colours = sns.color_palette("cividis", len(shown) + 1)  # its palest end is left out
    dashes = drawing.size_dashes([str(i) for i in range(len(shown))])
    for i, one in enumerate(shown):
        x = np.geomspace(one.sizes[0], one.sizes[-1], 80)
        look = {"color": colours[i], "label": f"{text.power(one.budget)} FLOPs"}
        parabola = one.parabola.at(np.log(x))
        axes.plot(x, parabola, dashes=dashes[str(i)] or (1, 0), linewidth=1.3, color=colours[i])
        axes.plot(one.sizes, one.errors, linestyle="none", marker=MARKERS[i], markersize=6, fillstyle="none", **look)
        if one.best is not None:
            _draw_best(axes, one, one.best, colours[i])
    axes.legend(loc="best", fontsize="small")


def _draw_best(axes: Axes, one: Profile, best: Minimum, colour: Any) -> None:
    """A star and the bar of its interval: an end within the sizes tried has a tick, one beyond them an arrow."""
    axes.plot(best.size, best.error, marker="*", color=INK, markersize=11, zorder=4)
    smallest, largest = float(one.sizes[0]), float(one.sizes[-1])
    low, high = max(best.interval.low, smallest), min(best.interval.high, largest)
    axes.plot([low, high], [best.error, best.error], color=colour, linewidth=2, zorder=3)
    ends = {"color": colour, "markersize": 7, "markeredgewidth": 2, "zorder": 3}
    axes.plot(low, best.error, marker="|" if best.interval.low >= smallest else "<", **ends)
    axes.plot(high, best.error, marker="|" if best.interval.high <= largest else ">", **ends)


def _law(law: Allocation | NoFit) -> str:
    if isinstance(law, NoFit):
        return f"No law of the minima: {law.reason}."
    return (
        f"Through the minima N* ∝ C^{text.number(law.exponent)} ({text.LEVEL} interval "
        f"{text.interval(law.exponent_interval)}), n = {text.counted(law.budgets, 'budget')}; parabolas are biased on "
        "grids that are wide or off centre, see the answers."
    )


def _minimum(one: Profile) -> str:
    sizes = text.counted(len(one.sizes), "size")
    if one.best is None:
        return f"{sizes}, no minimum between them"
    within = f"{text.LEVEL} interval {_ends(one.best.interval, one.sizes)}"
    return f"{sizes}, lowest at {text.count(one.best.size)} parameters ({within}; {text.percent(one.best.error)})"


def _ends(interval: Interval, tried: Array) -> str:
    """Both ends in words; beyond the sizes tried a parabola is no ground for a number."""
    below, beyond = interval.low < tried[0], interval.high > tried[-1]
    if below and beyond:
        return "open: all the sizes tried"
    low = "below the sizes tried" if below else text.count(interval.low)
    return f"{low} to {'beyond the sizes tried' if beyond else text.count(interval.high)}"
