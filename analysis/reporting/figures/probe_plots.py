"""What the frozen backbone holds: probes of each layer, and the maps of attention and similarity that pre-training
writes."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from analysis.findings import text
from analysis.findings.series import OTHER, PRETRAINED, SCRATCH, label_order, of_start, scales_sizes
from analysis.reporting.figures import drawing
from analysis.reporting.figures.plots import Plot
from analysis.study.records import Study
from nepa_scale.config.ladder import EMBEDDING, OUTPUT, block_of

MAX_PANELS = 6
PANEL_HEIGHT = 2.3
_LAYER = re.compile(rf"{EMBEDDING}|{OUTPUT}|block\d+")
HEADS: Mapping[str, tuple[str, str, str, Any]] = {  # name, marker, colour, line: Okabe and Ito's colours
    "linear_last": ("linear, last token", "o", "#0072b2", "-"),
    "linear_mean": ("linear, mean", "s", "#d55e00", "-"),
    "attentive": ("attentive", "^", "#009e73", "-"),
    "knn_last": ("k-NN, last token", "o", "#56b4e9", "--"),
    "knn_mean": ("k-NN, mean", "s", "#e69f00", "--"),
}
PICTURES = "pictures.png"
MAX_SHEETS = 6
MAX_BYTES = 12_000_000  # of all sheets together; a page of more is slow to open
_PNG = b"\x89PNG\r\n\x1a\n"


def layer_scores(study: Study) -> pd.DataFrame:
    """Top-1 by label, init, head and layer, mean over finished runs: columns label, init, head, layer, value."""
    rows = study.finished("probe")
    columns = [name for name in map(str, rows) if _head(name) in HEADS and _LAYER.fullmatch(_layer(name))]
    if rows.empty or not columns:
        return pd.DataFrame(columns=["label", "init", "head", "layer", "value"])
    long = rows.melt(["label", "init"], columns, var_name="name").dropna(subset=["value"])
    long["head"] = long["name"].map(_head)
    long["layer"] = long["name"].map(_layer)
    means = long.groupby(["label", "init", "head", "layer"])["value"].mean()
    return means.reset_index()


def layers_plot(study: Study) -> Plot | None:
    """Draw top-1 of every head against depth, a panel per label; None where a single layer was probed."""
    scores = layer_scores(study)
    if scores["layer"].nunique() <= 1:
        return None
    panels = _panels(study, scores)
    drawn = [_of(scores, *panel) for panel in panels]
    with drawing.style():
        figure, axes = drawing.new_grid(len(panels), PANEL_HEIGHT, "top-1")
        for panel_axes, panel, table in zip(axes, panels, drawn, strict=True):
            _draw(panel_axes, table)
            panel_axes.set_title(_name(panel), fontsize="small", loc="left")
        axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: text.round_percent(value)))
        handles, names = _legend(axes[0], scores)
        figure.legend(handles, names, loc="outside upper center", ncols=3, fontsize="small", frameon=False)
    count = scores[["label", "init"]].drop_duplicates().shape[0]
    cut = f" {len(panels)} of {count} are drawn." if count > len(panels) else ""
    caption = (
        "Top-1 of heads on the frozen backbone against the layer they read: emb, the patch embedding; a number, the "
        f"output of that block; out, the last block after its norm.{cut}"
    )
    return Plot("probe-layers", figure, caption, _alt(panels, drawn))


def _head(column: str) -> str:
    return column.removeprefix("metrics.").partition("/")[0]


def _layer(column: str) -> str:
    return column.partition("/")[2]


def _panels(study: Study, scores: pd.DataFrame) -> list[tuple[str, str]]:
    """The (label, init) that are drawn: from-scratch baselines last, of too many the last labels."""
    present = scores[["label", "init"]].drop_duplicates()
    rank = {label: i for i, label in enumerate(label_order(study))}
    known: list[tuple[str, str]] = []
    for start in (PRETRAINED, OTHER, SCRATCH):
        of_this = of_start(present, start).itertuples(index=False, name=None)
        known += sorted(of_this, key=lambda panel: (rank[panel[0]], panel[1]))
    tuned = [label_and_start for label_and_start in known if label_and_start[1] != SCRATCH]
    return known if len(known) <= MAX_PANELS else (tuned or known)[-MAX_PANELS:]


def _of(scores: pd.DataFrame, label: str, init: str) -> pd.DataFrame:
    """Table [layer, head] of top-1 from the bottom layer up."""
    rows = scores[(scores["label"] == label) & (scores["init"] == init)]
    table = rows.pivot_table(index="layer", columns="head", values="value")
    return table.loc[sorted(table.index, key=_depth)]


def _depth(layer: str) -> float:
    return {EMBEDDING: -1.0, OUTPUT: float("inf")}.get(layer, float(block_of(layer) or 0))


def _draw(axes: Axes, table: pd.DataFrame) -> None:
    for head, (_, marker, colour, line) in HEADS.items():
        if head in table:
            axes.plot(
                range(len(table)),
                table[head].to_numpy(float),
                color=colour,
                marker=marker,
                linestyle=line,
                markersize=5,
            )
    stride = -(-len(table) // 8)
    places = sorted({*range(0, len(table), stride), len(table) - 1})
    axes.set_xticks(places, [_short(str(table.index[layer])) for layer in places], fontsize="small")
    axes.set_xlabel("layer", fontsize="small")


def _legend(axes: Axes, scores: pd.DataFrame) -> tuple[list[Any], list[str]]:
    met = [look for head, look in HEADS.items() if head in set(scores["head"])]
    handles = [axes.plot([], [], color=colour, marker=marker, linestyle=line)[0] for _, marker, colour, line in met]
    return handles, [name for name, *_ in met]


def _short(layer: str) -> str:
    return {EMBEDDING: "emb", OUTPUT: "out"}.get(
        layer, str(block_of(layer) if layer not in (EMBEDDING, OUTPUT) else "")
    )


def _name(panel: tuple[str, str]) -> str:
    label, init = panel
    start = {PRETRAINED: "", SCRATCH: ", from scratch"}.get(init, ", from other weights")
    return drawing.short(label) + start


def _alt(panels: Sequence[tuple[str, str]], drawn: Sequence[pd.DataFrame]) -> str:
    said = []
    for panel, table in zip(panels, drawn, strict=True):
        best = [
            f"{HEADS[head][0]} {text.percent(float(table[head].max()))} at {table[head].idxmax()}"
            for head in HEADS
            if head in table
        ]
        said.append(f"{_name(panel)}: best {', '.join(best)}")
    return f"Top-1 of probes by layer. {'; '.join(said)}."


@dataclass(frozen=True)
class Sheet:
    """One picture with its caption and text alternative."""

    uri: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Sheets:
    """The sheets that fit the page, and a sentence for each that does not."""

    shown: tuple[Sheet, ...]
    notes: tuple[str, ...]


def sheets(study: Study) -> Sheets:
    """Read one sheet per label: of too many, those of the largest sizes, or of the first settings."""
    files = _files(study)
    order = [label for label in label_order(study) if label in files]
    kept = order[-MAX_SHEETS:] if scales_sizes(study) else order[:MAX_SHEETS]
    notes = [f"Pictures of {label} are in {_place(study, files[label])}." for label in order if label not in kept]
    shown, total = [], 0
    for label in kept:
        content, path = files[label].read_bytes(), _place(study, files[label])
        total += len(content)
        if not content.startswith(_PNG):
            notes.append(f"{path} is no PNG file; the page leaves it out.")
        elif total > MAX_BYTES:
            notes.append(f"Pictures of {label} are too large for the page; they are in {path}.")
        else:
            shown.append(_sheet(label, content))
    return Sheets(tuple(shown), tuple(notes))


def _files(study: Study) -> dict[str, Path]:
    """{label: file} of the first finished pretraining of each label that has one."""
    rows = study.finished("pretrain")
    files: dict[str, Path] = {}
    for label, run_id in rows[["label", "run_id"]].itertuples(index=False, name=None):
        path = study.path / "runs" / run_id / "pretrain" / PICTURES
        if path.is_file():
            files.setdefault(label, path)
    return files


def _place(study: Study, path: Path) -> str:
    return str(path.relative_to(study.path))


def _sheet(label: str, content: bytes) -> Sheet:
    uri = "data:image/png;base64," + base64.b64encode(content).decode()
    caption = (
        f"{label}: image and query patch, the attention of that patch, and the cosine between the next embedding "
        "predicted from it and that of every patch (as in the paper, Figure 5)."
    )
    alt = (
        f"Attention and similarity maps of {label} after pretraining: rows of validation images, each with its query "
        "patch, the attention of that patch, and the cosine between the predicted next embedding and every patch."
    )
    return Sheet(uri, caption, alt)
