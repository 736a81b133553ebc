"""Figures of the paper's numbers beside those of a study, each on its own scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.findings import text
from analysis.findings.series import CLASSIFICATION, PARAMETERS, PRETRAINED, Target, finished, of_start, series, starts
from analysis.reporting.figures import captions, drawing
from analysis.reporting.figures.drawing import INK, QUIET, Palette, palette
from analysis.reporting.figures.label_plots import height
from analysis.reporting.figures.plots import Plot
from analysis.reporting.paper_effects import AT_CHANCE, headline, of_grid, outcomes, scores
from analysis.study.records import Study

HERE = "this study"
EMA_BELOW = 0.2  # of a row: beside the raw value, not over it
_OPEN: dict[str, Any] = {"linestyle": "none", "fillstyle": "none", "markersize": 8, "markeredgewidth": 1.6}
_EMA: dict[str, Any] = _OPEN | {"marker": "D", "markersize": 5}
_FILLED: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 7}
_METHODS: Mapping[tuple[str, str], tuple[str, str, str]] = {
    ("NEPA", "bidirectional"): ("NEPA, paper", "D", "#b3006b"),
    ("NEPA", "causal"): ("NEPA, fine-tuned causally", "v", "#b3006b"),
    ("MAE", ""): ("MAE, paper", "s", QUIET),
}


def paired_plot(study: Study) -> Plot:
    """Draw top-1 of every row of the paper's table, and beside it that of this study: one row per label."""
    rows = outcomes(study)
    order = list(map(str, rows.index))
    colours = drawing.size_colours(order)
    with drawing.style():
        figure, (left, right) = drawing.new_panels(2, row_height=height(len(order)))
        drawing.label_rows(left, order)
        for position, (label, row) in enumerate(rows.iterrows()):
            missing = "fails" if row["paper_failed"] else "not in the paper"
            _dot(left, position, [row["paper"]], colours[str(label)], missing if np.isnan(row["paper"]) else "")
            here = [row["top1"], *scores(study, str(label))]
            _dot(right, position, here, colours[str(label)], str(row["fate"]))
            right.plot([row["ema_top1"]], [position + EMA_BELOW], color=colours[str(label)], **_EMA)
        _score_axis(left, "the paper", rows["paper"])
        at_chance = (rows["fate"] == AT_CHANCE).any()
        shown = ["low", "high", "ema_top1", *(["majority"] if at_chance else [])]
        _score_axis(right, HERE, pd.concat([rows[name] for name in shown]))
        if at_chance:
            right.axvline(float(rows["majority"].mean()), color=QUIET, linestyle=":", linewidth=1.5, zorder=0)
    caption = (
        "Top-1 after fine-tuning, row by row; each panel has a scale of its own. Dots: mean, and small ones every run. "
        "Cross: no score to show."
    )
    caption += " Diamonds: moving average of the weights." if rows["ema_top1"].notna().any() else ""
    caption += " Dotted: the majority baseline." if at_chance else ""
    return Plot("beside-the-paper", figure, caption, _paired_alt(rows))


def published_plot(study: Study, target: Target) -> Plot:
    """Draw the error against parameters as far as the published models, hollow, at the N of their size."""
    start = starts(study.of(target.task))[0]
    here = series(study, target, PARAMETERS, start).points
    here = here[(here["x"] > 0) & (here["error"] > 0)]
    published = _drawn_methods(target)
    with drawing.style():
        figure, axes = drawing.new_figure()
        axes.set(xlabel="backbone parameters N", ylabel=f"{target.name} ({target.formula})")
        _draw_own(axes, here, palette(study))
        for key, points in published.items():
            name, marker, colour = _METHODS[key]
            x, y = points["x"].to_numpy(float), points["error"].to_numpy(float)
            axes.plot(x, y, color=colour, marker=marker, label=name, **_OPEN)
        every = pd.concat([here[["x", "error"]], *published.values()])
        drawing.axis_around(axes, "x", every["x"], text.count, margin=1.6)
        drawing.error_axis(axes, every["error"])
        axes.legend(loc="lower left", fontsize="small")
    caption = (
        f"{captions.capital(target.name)} here (filled) and published (hollow), log scales. {where(study, target)} "
        "MAE stands at the N of NEPA's model of the same size."
    )
    return Plot(f"published-{target.task}", figure, caption, _published_alt(here, published, target))


def epochs_plot(study: Study) -> Plot:
    """Draw the error against the length of pretraining: Figure 4 of the paper, and this study's beside it."""
    here, published = epochs_here(study), of_grid("epochs").astype({"epochs": "float64"})
    with drawing.style():
        figure, (left, right) = drawing.new_panels(2)
        _draw_figure_4(left, published)
        if here.empty:
            drawing.write_empty(right)
            right.set_xticks([])
        else:
            means = here.groupby("x")["error"].mean()
            small = _FILLED | {"markersize": 4}
            right.plot(here["x"].to_numpy(float), here["error"].to_numpy(float), color=QUIET, alpha=0.7, **small)
            right.plot(means.index.to_numpy(float), means.to_numpy(float), color=INK, marker="o")
            _epochs_axis(right, HERE, here["x"])
        every = pd.concat([1 - published["score"], here["error"]])
        drawing.log_axis(left, "y", every.min() / 1.2, min(every.max() * 1.2, 1.1), text.round_percent)
    caption = (
        "Classification error against epochs of pretraining, log scales. The paper: causal fine-tuning, Figure 4, read "
        f"off to within 0.03 points. {where(study, CLASSIFICATION)}"
    )
    return Plot("epochs", figure, caption, _epochs_alt(here, published))


def where(study: Study, target: Target) -> str:
    """Say on what data the paper's numbers and this study's were measured."""
    theirs = {"classify": "ImageNet-1k at 224 px", "segment": "ADE20K at 512 px"}[target.task]
    configs = [result["config"] for (_, task), result in study.results.items() if task == target.task]
    keys = (f"{target.task}.dataset", f"{target.task}.image_size")
    named = dict.fromkeys(
        f"{config[keys[0]]} at {config[keys[1]]} px" for config in configs if set(keys) <= set(config)
    )
    ours = f"; here {', '.join(named)}" if named else ""
    return f"The paper: {theirs}{ours}."


def epochs_here(study: Study) -> pd.DataFrame:
    """Points [label, x = epochs of pretraining, error] of this study's finished pretrained runs."""
    rows = of_start(study.of(CLASSIFICATION.task), PRETRAINED)
    usable = finished(rows, CLASSIFICATION)
    epochs = pd.to_numeric(usable.get("config.pretrain.epochs", pd.Series(index=usable.index, dtype="float64")))
    points = pd.DataFrame({"label": usable["label"], "x": epochs, "error": 1 - usable["metrics.top1"]})
    return points.dropna().sort_values("x", kind="stable")


def _draw_own(axes: Axes, here: pd.DataFrame, looks: Palette) -> None:
    for group, points in here.groupby(here["label"].map(looks.group_of), sort=False):
        x, y = points["x"].to_numpy(float), points["error"].to_numpy(float)
        axes.plot(x, y, color=looks.colours[str(group)], **_FILLED)
    axes.plot([], [], color=INK, label=HERE, **_FILLED)


def _draw_figure_4(axes: Axes, published: pd.DataFrame) -> None:
    for size, points in published.groupby("size", sort=False):
        marker, colour = {"base": ("o", "#31688e"), "large": ("D", "#b3006b")}[str(size)]
        x, y = points["epochs"].to_numpy(float), 1 - points["score"].to_numpy(float)
        axes.plot(x, y, color=colour, marker=marker, fillstyle="none", label=str(size))
    axes.legend(loc="best", fontsize="small")
    _epochs_axis(axes, "the paper", published["epochs"])
    axes.set_ylabel(f"{CLASSIFICATION.name} ({CLASSIFICATION.formula})")


def _dot(axes: Axes, row: int, values: Sequence[float], colour: Any, word: str) -> None:
    """The first value large and the others small; a cross and ``word`` at the left where there is none."""
    if np.isnan(values[0]):
        at_left: dict[str, Any] = {"transform": axes.get_yaxis_transform()}
        axes.plot([0.06], [row], color=INK, marker="x", markersize=7, markeredgewidth=2, **at_left)
        axes.text(0.13, row, word, va="center", fontsize="small", color=INK, backgroundcolor="white", **at_left)
        return
    axes.plot([values[0]], [row], color=colour, zorder=3, **_FILLED)
    axes.plot(values[1:], [row] * (len(values) - 1), color=colour, alpha=0.6, **_FILLED | {"markersize": 4})
    if word:
        beside: dict[str, Any] = {"xytext": (8, -4), "textcoords": "offset points"}
        axes.annotate(word, (values[0], row), fontsize="small", **beside)


def _score_axis(axes: Axes, title: str, values: pd.Series[float]) -> None:
    known = values.dropna()
    if known.empty:
        axes.set_xticks([])
        axes.set_xlim(0, 1)
    else:
        room = max(0.18 * float(known.max() - known.min()), 0.01)
        axes.set_xlim(float(known.min()) - room, float(known.max()) + room)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=3, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text.round_percent(value)))
    axes.set_title(title, fontsize="medium", loc="left")
    axes.set_xlabel("top-1")


def _epochs_axis(axes: Axes, title: str, epochs: pd.Series[float]) -> None:
    drawing.axis_around(axes, "x", epochs, text.count)
    apart = (epochs.max() / epochs.min()) ** 0.2  # so that no label touches the next
    ticks: list[float] = []
    for value in sorted(set(epochs)):
        if not ticks or value >= apart * ticks[-1]:
            ticks.append(value)
    axes.set_xticks(ticks, [text.count(value) for value in ticks], fontsize="small")
    axes.set_title(title, fontsize="medium", loc="left")
    axes.set_xlabel("epochs")


def _drawn_methods(target: Target) -> dict[tuple[str, str], pd.DataFrame]:
    """Points [x, error] of each published method that is drawn; others are in the table."""
    rows = headline(target.metric)
    params = rows.dropna(subset=["params"]).groupby("size")["params"].first().astype("float64")
    drawn = {}
    for method, attention in _METHODS:
        method_rows = rows[(rows["method"] == method) & (rows["attention"] == attention)]
        if len(method_rows):
            drawn[method, attention] = pd.DataFrame(
                {"x": method_rows["size"].map(params), "error": 1 - method_rows["score"]}
            )
    return drawn


def _paired_alt(rows: pd.DataFrame) -> str:
    said = []
    for label, row in rows.iterrows():
        paper = "fails" if row["paper_failed"] else text.percent(row["paper"])
        here = text.percent(row["top1"]) if row["n"] else str(row["fate"])
        at_chance = " (at chance)" if row["fate"] == AT_CHANCE else ""
        said.append(f"{label}: paper {paper}, here {here}{at_chance}")
    return f"Top-1 of each row, the paper's and this study's. {'; '.join(said)}."


def _published_alt(here: pd.DataFrame, published: Mapping[tuple[str, str], pd.DataFrame], target: Target) -> str:
    said = []
    if len(here):
        low, high = text.percent(float(here["error"].min())), text.percent(float(here["error"].max()))
        span = f"{text.count(float(here['x'].min()))} to {text.count(float(here['x'].max()))} parameters"
        said.append(f"{text.counted(len(here), 'run')} of this study from {span}, errors {low} to {high}")
    for key, points in published.items():
        values = [
            f"{text.percent(y)} at {text.count(x)}"
            for x, y in points[["x", "error"]].itertuples(index=False, name=None)
        ]
        said.append(f"{_METHODS[key][0]}: {' and '.join(values)}")
    return f"{captions.capital(target.name)} against backbone parameters. {'; '.join(said)}."


def _epochs_alt(here: pd.DataFrame, published: pd.DataFrame) -> str:
    theirs = [
        f"paper, {size}: {_by_epochs(points['epochs'], 1 - points['score'])}"
        for size, points in published.groupby("size", sort=False)
    ]
    means = here.groupby("x", as_index=False)["error"].mean()
    ours = _by_epochs(means["x"], means["error"]) or "no finished run"
    return f"Classification error after so many epochs of pretraining. {'; '.join(theirs)}; here: {ours}."


def _by_epochs(epochs: pd.Series[float], errors: pd.Series[float]) -> str:
    return ", ".join(f"{text.percent(y)} after {text.count(x)}" for x, y in zip(epochs, errors, strict=True))
