"""What the plan said a task would cost, beside what it did cost."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes

from analysis.findings import text
from analysis.laws.law import Array
from analysis.reporting.figures import drawing
from analysis.reporting.figures.drawing import QUIET
from analysis.reporting.figures.plots import MARGIN, Plot
from analysis.study.records import FINISHED, Study

QUANTITIES: Mapping[str, tuple[str, str]] = {  # planned and measured column
    "seconds": ("planned_seconds", "wall_seconds"),
    "FLOPs": ("planned_flops", "flops_train"),
}
LOOKS: Mapping[str, tuple[str, str]] = {  # Okabe and Ito's hues; the markers tell the tasks apart without them
    "pretrain": ("o", "#0072b2"),
    "probe": ("^", "#8a5a80"),
    "classify": ("s", "#d55e00"),
    "segment": ("D", "#009e73"),
}


def costs(study: Study) -> pd.DataFrame:
    """[task, quantity, planned, measured] of every finished task that the plan priced.

    FLOPs of plan and result come from one formula: they are told only where they differ, as of another version.
    """
    """[task, quantity, planned, measured] of every finished task that the plan priced."""
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
    found = costs(study)
    if found.empty:
        return None
    quantities = [quantity for quantity in QUANTITIES if (found["quantity"] == quantity).any()]
    with drawing.style():
        figure, panels = drawing.new_panels(len(quantities))
        for axes, quantity in zip(panels, quantities, strict=True):
            _draw(axes, found[found["quantity"] == quantity], quantity)
        ratios = (found["measured"] / found["planned"]).to_numpy(float)
        drawing.log_axis(panels[0], "y", min(1, float(ratios.min())) / 1.2, max(1, float(ratios.max())) * 1.2, _times)
        panels[0].set_ylabel("measured / planned")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=4, fontsize="small", frameon=False)
    said = " ".join(f"{quantity.capitalize()}: {_said(found, quantity)}." for quantity in quantities)
    caption = (
        "Measured over planned cost of every finished task; on the line the plan was right. Seconds depend on what "
        "else the machine had to do."
    )
    return Plot("cost", figure, caption, f"Planned against measured cost. {said}".replace("Flops", "FLOPs"))


def _draw(axes: Axes, points: pd.DataFrame, quantity: str) -> None:
    axes.axhline(1, color=QUIET, linewidth=1, zorder=0)
    for task, own in points.groupby("task", sort=False):
        marker, colour = LOOKS[str(task)]
        x: Array = own["planned"].to_numpy(float)
        y: Array = own["measured"].to_numpy(float) / x
        axes.plot(x, y, color=colour, marker=marker, linestyle="none", fillstyle="none", markersize=6, label=str(task))
    form = text.power if quantity == "FLOPs" else text.count
    low, high = float(points["planned"].min()), float(points["planned"].max())
    drawing.log_axis(axes, "x", low / MARGIN, high * MARGIN, form, most=2 if form is text.power else 3)
    axes.set_xlabel(f"planned {quantity}")


def _said(found: pd.DataFrame, quantity: str) -> str:
    parts = []
    for task, own in found[found["quantity"] == quantity].groupby("task", sort=False):
        ratio = own["measured"] / own["planned"]
        middle, low, high = (_times(float(value)) for value in (ratio.median(), ratio.min(), ratio.max()))
        parts.append(f"{task} {middle} in the median ({low} to {high}, n = {len(own)})")
    return "; ".join(parts)


def _times(ratio: float) -> str:
    return f"{text.count(ratio)}{text.SPACE}{text.TIMES}"
