"""Figures of compute: the error of every size at equal compute, the error against all training FLOPs with its
frontier, and planned against measured cost."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from analysis.findings import text
from analysis.findings.series import PRETRAINED, SCRATCH, Target, at_equal_labels, errors, finished
from analysis.findings.two_axes import surface_points
from analysis.fit.student import Interval, NoFit
from analysis.isoflop import (
    FEWEST_SIZES,
    Allocation,
    Optimum,
    optima,
    parabola_minimum,
    parabola_through,
    same_budgets,
    through,
)
from analysis.laws.law import Array
from analysis.reporting.figures import captions, drawing
from analysis.reporting.figures.drawing import INK, QUIET, Palette, palette, readable
from analysis.reporting.figures.plots import LOOKS, Plot, last_places
from analysis.study.records import FINISHED, Study
from nepa_scale.config.registry import TASKS

FEWEST_RUNS = 3
QUANTITIES: Mapping[str, tuple[str, str]] = {  # planned and measured column
    "seconds": ("planned_seconds", "wall_seconds"),
    "FLOPs": ("planned_flops", "flops_train"),
}
TASK_LOOKS: Mapping[str, tuple[str, str]] = dict(  # Okabe and Ito's hues; the markers tell the tasks apart without them
    zip(TASKS, cycle((("o", "#0072b2"), ("^", "#8a5a80"), ("s", "#d55e00"), ("D", "#009e73"))), strict=False)
)
MARKERS = "osD^vP*XdhH8"


def spending(study: Study, target: Target) -> pd.DataFrame:
    """[label, run_id, init, flops, error] of every finished run: pre-training, where it has any, and its own task.

    Where the study varies the labels, all points have the same number of them.
    Runs from other weights are not among them: what these have cost is not recorded.
    """
    rows = finished(at_equal_labels(study, study.of(target.task)), target)
    rows = rows[rows["init"].isin([PRETRAINED, SCRATCH])]
    before = rows["pretrain_flops"].where(rows["init"] == PRETRAINED, 0.0)
    points = rows[["label", "run_id", "init"]].assign(
        flops=(before + rows["flops_train"]).astype("float64"),
        error=errors(rows, target),
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
        _draw_frontier(axes, points, best, palette(study))
    named = "; ".join(f"{_who(row)} {text.percent(row['error'])} for {text.power(row['flops'])}" for row in _rows(best))
    counted = text.counted(len(points), "finished run")
    caption = (
        f"{captions.capital(target.name)} against all training FLOPs of a run, log scales, n = {counted}. Line: the "
        "lowest error that any run reached with so many. It joins single runs, whose seeds it favours: no law."
    )
    alt = f"{captions.capital(target.name)} against training FLOPs, {counted}. On the frontier: {named}."
    return Plot(f"frontier-{target.task}", figure, caption, alt)


def _draw_frontier(axes: Axes, points: pd.DataFrame, best: pd.DataFrame, looks: Palette) -> None:
    low, high = float(points["flops"].min()) / drawing.MARGIN, float(points["flops"].max()) * drawing.MARGIN
    drawing.log_axis(axes, "x", low, high, text.power)
    drawing.error_axis(axes, points["error"])
    steps = [*best["flops"].to_numpy(float), high]
    reached = best["error"].to_numpy(float)
    axes.step(steps, [*reached, reached[-1]], where="post", color=INK, linewidth=1.4, label="frontier", zorder=1)
    groups = points["label"].map(looks.group_of)
    for init in (PRETRAINED, SCRATCH):
        if not (points["init"] == init).any():
            continue
        look = LOOKS[init]
        for group, group_points in points[points["init"] == init].groupby(groups, sort=False):
            x, y = group_points["flops"].to_numpy(float), group_points["error"].to_numpy(float)
            axes.plot(x, y, color=looks.colours[str(group)], zorder=3, **look)
        axes.plot([], [], color=drawing.QUIET, label=captions.NAMES[init], **look)
    pretrained = points[points["init"] == PRETRAINED]
    drawing.name_below(axes, last_places(pretrained["flops"], pretrained["error"], groups, looks))
    drawing.legend_above(axes)


def _rows(best: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in best.to_dict("records")]


def _who(row: Mapping[str, Any]) -> str:
    return f"{row['label']}{' from scratch' if row['init'] == SCRATCH else ''}"


def costs(study: Study) -> pd.DataFrame:
    """[task, quantity, planned, measured] of every finished task that the plan priced.

    FLOPs of plan and result come from one formula, so they are listed only where they differ (by version).
    """
    done = study.tried[study.tried["state"] == FINISHED]
    frames = []
    for quantity, (planned, measured) in QUANTITIES.items():
        pair = pd.DataFrame({"task": done["task"], "planned": done[planned], "measured": done[measured]})
        pair = pair[(pair["planned"] > 0) & (pair["measured"] > 0)].assign(quantity=quantity)
        same = quantity == "FLOPs" and (pair["planned"] == pair["measured"]).all()
        frames.append(pair.iloc[:0] if same else pair)
    return pd.concat(frames, ignore_index=True)


def cost_plot(study: Study) -> Plot | None:
    """Draw measured over planned cost of every finished task; None without a priced plan."""
    costs_of_tasks = costs(study)
    if costs_of_tasks.empty:
        return None
    quantities = [quantity for quantity in QUANTITIES if (costs_of_tasks["quantity"] == quantity).any()]
    with drawing.style():
        figure, panels = drawing.new_panels(len(quantities))
        for axes, quantity in zip(panels, quantities, strict=True):
            _draw_costs(axes, costs_of_tasks[costs_of_tasks["quantity"] == quantity], quantity)
        ratios = (costs_of_tasks["measured"] / costs_of_tasks["planned"]).to_numpy(float)
        drawing.log_axis(panels[0], "y", min(1, float(ratios.min())) / 1.2, max(1, float(ratios.max())) * 1.2, _times)
        panels[0].set_ylabel("measured / planned")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=4, fontsize="small", frameon=False)
    said = " ".join(f"{quantity.capitalize()}: {_cost_sentence(costs_of_tasks, quantity)}." for quantity in quantities)
    caption = (
        "Measured over planned cost of every finished task; on the line the plan was right. Seconds depend on what "
        "else the machine had to do."
    )
    return Plot("cost", figure, caption, f"Planned against measured cost. {said}".replace("Flops", "FLOPs"))


def _draw_costs(axes: Axes, points: pd.DataFrame, quantity: str) -> None:
    axes.axhline(1, color=QUIET, linewidth=1, zorder=0)
    for task, task_points in points.groupby("task", sort=False):
        marker, colour = TASK_LOOKS[str(task)]
        x: Array = task_points["planned"].to_numpy(float)
        y: Array = task_points["measured"].to_numpy(float) / x
        axes.plot(x, y, color=colour, marker=marker, linestyle="none", fillstyle="none", markersize=6, label=str(task))
    form = text.power if quantity == "FLOPs" else text.count
    drawing.axis_around(axes, "x", points["planned"], form, most=2 if form is text.power else 3)
    axes.set_xlabel(f"planned {quantity}")


def _cost_sentence(costs_of_tasks: pd.DataFrame, quantity: str) -> str:
    parts = []
    for task, rows in costs_of_tasks[costs_of_tasks["quantity"] == quantity].groupby("task", sort=False):
        ratio = rows["measured"] / rows["planned"]
        middle, low, high = (_times(float(value)) for value in (ratio.median(), ratio.min(), ratio.max()))
        parts.append(f"{task} {middle} in the median ({low} to {high}, n = {len(rows)})")
    return "; ".join(parts)


def _times(ratio: float) -> str:
    return f"{text.count(ratio)}{text.SPACE}{text.TIMES}"


def profiles(points: pd.DataFrame) -> tuple[list[Optimum], Allocation | NoFit]:
    """The optimum of every budget with at least four sizes, cheapest first, and the law through the minima."""
    budget, n, error = (points[name].to_numpy(float) for name in ("c", "n", "error"))
    minima = optima(same_budgets(budget), n, error, parabola_minimum)
    return [optimum for optimum in minima if len(optimum.tried) >= FEWEST_SIZES], through(minima)


def _lowest(profile: Optimum) -> tuple[float, float, Interval] | None:
    """The size at which the parabola is lowest, the error there, and the interval of the size."""
    if profile.log_n is None or profile.interval is None:
        return None
    parabola = parabola_through(np.log(profile.tried), profile.loss)
    return float(np.exp(profile.log_n)), float(parabola.at(np.array([profile.log_n]))[0]), profile.interval


def isoflop_plot(study: Study, target: Target) -> Plot | None:
    """Draw the profiles of ``target``; None where fewer than two budgets have four sizes, or errors are equal."""
    points = surface_points(study, target)
    if points["error"].nunique() < 2:  # none, or all equal: a minimum would be one of rounding
        return None
    every_profile, law = profiles(points)
    if len(every_profile) < 2:
        return None
    shown = [every_profile[i] for i in map(int, readable(list(map(str, range(len(every_profile))))))]
    with drawing.style():
        figure, axes = drawing.new_figure()
        axes.set(xlabel="backbone parameters N", ylabel=f"{target.name} ({target.formula})")
        _draw(axes, shown)
    caption = (
        f"{captions.capital(target.name)} against size at equal pretraining FLOPs (colour, marker and dashes by "
        f"budget), seeds averaged. Lines: parabolas in log N; stars: their minima; bars: {text.LEVEL} intervals of "
        f"these (Fieller), an arrow where one goes beyond the sizes tried. {_law(law)}"
    )
    caption += f" {len(shown)} of {len(every_profile)} budgets are drawn." if len(shown) < len(every_profile) else ""
    listed = "; ".join(f"{text.power(profile.budget)} FLOPs: {_minimum(profile)}" for profile in shown)
    alt = f"{captions.capital(target.name)} against size at {len(every_profile)} budgets. {listed}."
    return Plot(f"isoflop-{target.task}", figure, caption, alt)


def _draw(axes: Axes, shown: list[Optimum]) -> None:
    every = np.concatenate([profile.tried for profile in shown])
    drawing.axis_around(axes, "x", every, text.count)
    axes.yaxis.set_major_formatter(lambda value, _: text.round_percent(value))
    colours = sns.color_palette("cividis", len(shown) + 1)  # its palest end is left out
    dashes = drawing.size_dashes([str(i) for i in range(len(shown))])
    for i, profile in enumerate(shown):
        x = np.geomspace(profile.tried[0], profile.tried[-1], 80)
        look = {"color": colours[i], "label": f"{text.power(profile.budget)} FLOPs"}
        parabola = parabola_through(np.log(profile.tried), profile.loss).at(np.log(x))
        axes.plot(x, parabola, dashes=dashes[str(i)] or (1, 0), linewidth=1.3, color=colours[i])
        axes.plot(
            profile.tried, profile.loss, linestyle="none", marker=MARKERS[i], markersize=6, fillstyle="none", **look
        )
        _draw_lowest(axes, profile, colours[i])
    axes.legend(loc="best", fontsize="small")


def _draw_lowest(axes: Axes, profile: Optimum, colour: Any) -> None:
    """A star and the bar of its interval: an end within the sizes tried has a tick, one beyond them an arrow."""
    if (lowest := _lowest(profile)) is None:
        return
    size, error, interval = lowest
    axes.plot(size, error, marker="*", color=INK, markersize=11, zorder=4)
    smallest, largest = float(profile.tried[0]), float(profile.tried[-1])
    low, high = max(interval.low, smallest), min(interval.high, largest)
    axes.plot([low, high], [error, error], color=colour, linewidth=2, zorder=3)
    ends = {"color": colour, "markersize": 7, "markeredgewidth": 2, "zorder": 3}
    axes.plot(low, error, marker="|" if interval.low >= smallest else "<", **ends)
    axes.plot(high, error, marker="|" if interval.high <= largest else ">", **ends)


def _law(law: Allocation | NoFit) -> str:
    if isinstance(law, NoFit):
        return f"No law of the minima: {law.reason}."
    return (
        f"Through the minima N* ∝ C^{text.number(law.exponent)} ({text.LEVEL} interval "
        f"{text.interval(law.exponent_interval)}), n = {text.counted(law.budgets, 'budget')}; parabolas are biased on "
        "grids that are wide or off centre, see the answers."
    )


def _minimum(profile: Optimum) -> str:
    sizes = text.counted(len(profile.tried), "size")
    if (lowest := _lowest(profile)) is None:
        return f"{sizes}, no minimum between them"
    size, error, interval = lowest
    within = f"{text.LEVEL} interval {_ends(interval, profile.tried)}"
    return f"{sizes}, lowest at {text.count(size)} parameters ({within}; {text.percent(error)})"


def _ends(interval: Interval, tried: Array) -> str:
    """Both ends as text; beyond the sizes tried a parabola does not support a number."""
    below, beyond = interval.low < tried[0], interval.high > tried[-1]
    if below and beyond:
        return "open: all the sizes tried"
    low = "below the sizes tried" if below else text.count(interval.low)
    return f"{low} to {'beyond the sizes tried' if beyond else text.count(interval.high)}"
