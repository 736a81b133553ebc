"""The page that shows several studies side by side: its figures and tables."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.findings import text
from analysis.findings.series import Axis, Series, Target, best_score, noun
from analysis.fit.power_law import PowerLawFit
from analysis.reporting.compare.studies import Named, find, laws, scores, shared_settings, targets
from analysis.reporting.figures import captions, drawing
from analysis.reporting.figures.drawing import readable
from analysis.reporting.figures.plots import MARGIN, Plot
from analysis.reporting.html.page import Table, data_uri, fill
from analysis.study.grouping import CHOSEN
from analysis.study.records import FINISHED

LOOKS: Sequence[tuple[str, str, Any]] = (  # Okabe and Ito's hues, told apart without colour by marker and dashes
    ("#0072b2", "o", "-"),
    ("#d55e00", "s", "--"),
    ("#009e73", "^", "-."),
    ("#8a5a80", "D", ":"),
    ("#000000", "v", (0, (5, 1, 1, 1, 1, 1))),
    ("#a6761d", "P", (0, (1, 3))),
)


def render(studies: Sequence[Named]) -> str:
    """Build the whole page. The same studies in the same order give the same bytes."""
    names = [one.name for one in studies]
    return fill(
        "side_by_side.html.j2",
        title=" beside ".join(names),
        names=names,
        findings=find(studies),
        studies=studies_table(studies),
        figures=[(plot, data_uri(plot)) for plot in plots(studies)],
        results=[laws_table(studies), *(scores_table(studies, target) for target in targets(studies))],
        settings=settings_table(studies),
        environment=environment_table(studies),
        notes=[f"{one.name}: {note}" for one in studies for note in one.study.notes],
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


def studies_table(studies: Sequence[Named]) -> Table:
    """A row for each study: its grid, how far it is, its sizes, best scores and cost."""
    measured = targets(studies)
    cells = []
    for one in studies:
        table = one.study.tried
        done = table[table["state"] == FINISHED]
        params = table["params_backbone"].dropna().astype("float64")
        ends = dict.fromkeys(map(text.count, (params.min(), params.max()))) if len(params) else [text.MISSING]
        best = [_best(done[done[CHOSEN]], target) for target in measured]
        cost = [text.power(float(done["flops_train"].sum())), text.count(float(done["wall_seconds"].sum()))]
        unfinished = table.loc[table["state"] != FINISHED, "state"].value_counts().sort_index()
        others = ", ".join(f"{count} {state}" for state, count in unfinished.items()) or text.MISSING
        grid, labels = one.study.grid or text.MISSING, f"{table['label'].nunique()} {noun(one.study)}s"
        cells.append([one.name, grid, others, labels, " to ".join(ends), f"{len(done)} of {len(table)}", *best, *cost])
    head = ["study", "grid", "not finished", "labels", "parameters N", "finished tasks"]
    head += [*(f"best {target.score}" for target in measured), "FLOPs", "seconds"]
    return Table("The studies", head, cells, text_columns=5)


def laws_table(studies: Sequence[Named]) -> Table:
    """A row for each law of each study, or the reason why there is none."""
    cells = []
    for name, one in laws(studies):
        start = [name, f"{one.target.formula} against {one.axis.symbol}"]
        if isinstance(one.fit, PowerLawFit):
            fit = one.fit
            numbers = [text.number(fit.a), text.number(fit.b), text.interval(fit.b_interval), str(fit.n)]
            cells.append([*start, *numbers, text.number(fit.residual_std), ""])
        else:
            cells.append([*start, *[text.MISSING] * 5, one.fit.reason])
    head = ["study", "law", "a", "exponent b", f"{text.LEVEL} interval of b", "n", "residual sd of log error", "remark"]
    note = f"Error = a x^{text.MINUS}b, fitted to the points of one study alone; n counts distinct x."
    return Table("Laws of each study", head, cells, text_columns=2, note=note, words_last=True)


def scores_table(studies: Sequence[Named], target: Target) -> Table:
    """Mean pretrained score of every label, a column for each study."""
    measured = scores(studies, target)
    labels = list(dict.fromkeys(label for own in measured.values() for label in own))
    params = pd.concat([one.study.table[["label", "params_backbone"]] for one in studies]).groupby("label")
    size = params["params_backbone"].median().astype("float64").reindex(labels).fillna(float("inf"))
    ordered = sorted(labels, key=lambda label: (float(size[label]), labels.index(label)))
    nan = float("nan")
    cells = [[label, *(text.percent(own.get(label, nan)) for own in measured.values())] for label in ordered]
    return Table(f"Mean {target.score} of pretrained runs", ["label", *measured], cells)


def settings_table(studies: Sequence[Named]) -> Table:
    """The settings that are fixed within each study and differ between them."""
    return _differences("Settings that differ", {one.name: shared_settings(one.study) for one in studies}, "setting")


def environment_table(studies: Sequence[Named]) -> Table:
    """Devices, commits, FLOPs conventions and package versions that differ between the studies."""
    met: dict[str, dict[str, str]] = {}
    for one in studies:
        own: dict[str, set[str]] = {}
        for result in one.study.results.values():
            facts = {name: result[name] for name in ("device_kind", "device_count", "commit", "flops_convention")}
            for name, value in {**facts, **result["versions"]}.items():
                own.setdefault(str(name), set()).add(str(value))
        met[one.name] = {name: ", ".join(sorted(values)) for name, values in sorted(own.items())}
    return _differences("Environment where it differs", met, "what")


def _differences(title: str, values: Mapping[str, Mapping[str, str]], what: str) -> Table:
    keys = sorted({key for own in values.values() for key in own})
    differing = [key for key in keys if len({own.get(key) for own in values.values() if own}) > 1]
    cells = [[key, *(own.get(key, text.MISSING) for own in values.values())] for key in differing]
    note = "" if cells else "Nothing differs."
    return Table(title, [what, *values], cells, text_columns=1 + len(values), note=note, words_last=True)


def _best(rows: pd.DataFrame, target: Target) -> str:
    best = best_score(rows, target)
    return text.MISSING if best is None else text.percent(best)
