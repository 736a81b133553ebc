"""IsoFLOP profiles: the error of every size at equal compute, with a parabola and its minimum for each budget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from analysis import text
from analysis.figures import captions, drawing
from analysis.figures.drawing import INK
from analysis.figures.palette import readable
from analysis.figures.plots import MARGIN, Plot
from analysis.fit.isoflop import FEWEST_SIZES, Allocation, allocation, parabola_minimum
from analysis.fit.small_sample import NoFit
from analysis.laws.law import Array
from analysis.records import Study
from analysis.series import Target
from analysis.two_axes import budgets, surface_points

MARKERS = "osD^vP*XdhH8"


@dataclass(frozen=True)
class Profile:
    """The mean error of every size [n] at one budget, the parabola over log N, and its minimum where it has one."""

    budget: float
    sizes: Array
    errors: Array
    parabola: Array
    """Coefficients over ``log N - mean log N``, highest power first."""
    best: float | None

    def at(self, size: Array) -> Array:
        """The parabola at ``size`` [n]."""
        value: Array = np.polyval(self.parabola, np.log(size) - np.log(self.sizes).mean())
        return value


def profiles(points: pd.DataFrame) -> list[Profile]:
    """The profile of every budget with at least four sizes, cheapest first."""
    budget = budgets(points["c"].to_numpy(float))
    found = []
    for one in np.unique(budget):
        means = points[budget == one].groupby("n")["error"].mean()
        if len(means) < FEWEST_SIZES:
            continue
        sizes, errors = means.index.to_numpy(float), means.to_numpy(float)
        log_n = np.log(sizes)
        lowest = parabola_minimum(log_n, errors)
        parabola = np.polyfit(log_n - log_n.mean(), errors, 2)
        best = None if lowest is None else float(np.exp(lowest))
        found.append(Profile(float(one), sizes, errors, parabola, best))
    return found


def isoflop_plot(study: Study, target: Target) -> Plot | None:
    """Draw the profiles of ``target``; None where fewer than two budgets have four sizes, or errors are equal."""
    points = surface_points(study, target)
    if points["error"].nunique() < 2:  # none, or all equal: a minimum would be one of rounding
        return None
    found = profiles(points)
    if len(found) < 2:
        return None
    shown = [found[i] for i in map(int, readable(list(map(str, range(len(found))))))]
    with drawing.style():
        figure, axes = drawing.new_figure()
        axes.set(xlabel="backbone parameters N", ylabel=f"{target.name} ({target.formula})")
        _draw(axes, shown)
    law = allocation(
        budgets(points["c"].to_numpy(float)),
        points["n"].to_numpy(float),
        points["error"].to_numpy(float),
        parabola_minimum,
    )
    caption = (
        f"{captions.capital(target.name)} against size at equal pretraining FLOPs (colour, marker and dashes by "
        f"budget), seeds averaged. Lines: parabolas in log N; stars: their minima. {_law(law)}"
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
        axes.plot(x, one.at(x), dashes=dashes[str(i)] or (1, 0), linewidth=1.3, color=colours[i])
        axes.plot(one.sizes, one.errors, linestyle="none", marker=MARKERS[i], markersize=6, fillstyle="none", **look)
        if one.best is not None:
            axes.plot(one.best, one.at(np.array([one.best])), marker="*", color=INK, markersize=11, zorder=4)
    axes.legend(loc="best", fontsize="small")


def _law(law: Allocation | NoFit) -> str:
    if isinstance(law, NoFit):
        return f"No law of the minima: {law.reason}."
    n = sum(one.log_n is not None for one in law.optima)
    return (
        f"Through the minima N* ∝ C^{text.number(law.exponent)}, n = {text.counted(n, 'budget')}; parabolas are biased "
        "on grids that are wide or off centre, see the answers."
    )


def _minimum(one: Profile) -> str:
    sizes = text.counted(len(one.sizes), "size")
    if one.best is None:
        return f"{sizes}, no minimum between them"
    error = float(one.at(np.array([one.best]))[0])
    return f"{sizes}, lowest at {text.count(one.best)} parameters ({text.percent(error)})"
