"""The look that all figures share: colours and dashes of labels, log axes in plain numbers, and deterministic SVG.

Figures are made without pyplot, so no display, backend or global state is involved.
"""

from __future__ import annotations

import functools
import io
import math
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from matplotlib.transforms import Bbox, BboxBase

from analysis.findings import text
from analysis.findings.series import label_order, scales_sizes, size_of, size_order
from analysis.laws.law import Array
from analysis.study.records import Study

FIGURE_SIZE = (4.9, 3.8)  # inches; two side by side on a desktop, still readable at the width of a phone
FONT = "DejaVu Sans"  # shipped with matplotlib: the same picture on every machine
INK, QUIET = "#1f2430", "#6b7280"
LINE_STYLES: Sequence[Any] = (
    "",
    (5, 2),
    (1, 1.5),
    (6, 2, 1, 2),
    (3, 1, 3, 1, 1, 1),
)  # seaborn's dash patterns
MARGIN = 1.35  # empty factor around the data on log axes
HIGHEST_ERROR = 1.15
MAX_LABEL = 24
LONGEST_OF_THREE = 12  # letters of the longest name in a legend of three columns
_HALO: Mapping[str, Any] = {"linewidth": 2.5, "foreground": "white"}  # a name stays readable on a line
MARKER_RADIUS = 6  # points, of what a name must keep clear of
_NOTHING = "\u200b"
"""A letter without width, before a name that begins with ``_``: matplotlib leaves such names out of legends."""
MAX_TICKS = 7
MAX_WIDE_TICKS = 5  # of numbers written as powers of ten
LABEL_WIDTH = 15  # of a line in the margin of a panel
_TICK_PATTERNS: Sequence[Sequence[str]] = [  # leading digits per decade, finest first
    *([f"{tenths / 10}" for tenths in range(10, 100, step)] for step in (1, 2, 5, 10)),
    *(("1", "2", "3", "5", "7"), ("1", "2", "5"), ("1", "3"), ("1",)),
]

_RC: Any = {
    "text.parse_math": False,  # a `$` in a run label is a `$`
    "svg.hashsalt": "nepa_scale",
    "svg.fonttype": "path",
    "font.family": FONT,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": "#e5e7eb",
    "legend.framealpha": 0.85,
    "legend.edgecolor": "#e5e7eb",
}
MAX_GROUPS = 12
"""With more lines a figure is not readable, and its legend hides it."""


@contextmanager
def style() -> Iterator[None]:
    """Apply the shared look inside the block and leave matplotlib's settings as they were."""
    with (
        mpl.rc_context(),
        sns.axes_style("whitegrid"),
        sns.plotting_context("notebook", font_scale=0.9),
        mpl.rc_context(_RC),
    ):
        yield


def new_figure() -> tuple[Figure, Axes]:
    """Make one figure with one pair of axes, open to the top and right."""
    figure = Figure(figsize=FIGURE_SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def new_panels(
    columns: int, rows: int = 1, row_height: float = FIGURE_SIZE[1], width: float = FIGURE_SIZE[0]
) -> tuple[Figure, list[Axes]]:
    """Make one figure, in inches, with ``rows`` x ``columns`` panels that share their y axis."""
    figure = Figure(figsize=(width, rows * row_height), layout="constrained")
    panels = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def new_grid(count: int, row_height: float, ylabel: str) -> tuple[Figure, list[Axes]]:
    """Make one figure with ``count`` panels, two in a row; ``row_height`` in inches is that of several rows."""
    columns = min(count, 2)
    rows = -(-count // columns)
    figure, panels = new_panels(columns, rows, row_height if rows > 1 else FIGURE_SIZE[1])
    for spare in panels[count:]:
        spare.set_axis_off()
    for left in panels[::columns]:
        left.set_ylabel(ylabel)
    return figure, panels[:count]


def label_rows(axes: Axes, labels: Sequence[str]) -> None:
    """Give each label a row of its own, the first on top."""
    names = [textwrap.fill(short(label), LABEL_WIDTH) for label in labels]
    axes.set_yticks(range(len(labels)), names)
    axes.set_ylim(len(labels) - 0.5, -0.5)


def mark_empty(axes: Axes) -> None:
    """Say on empty axes that there is nothing to draw."""
    axes.set(xticks=[], yticks=[])
    write_empty(axes)


def write_empty(axes: Axes) -> None:
    """The text of ``mark_empty`` alone, for a panel that shares its y axis with another."""
    axes.text(0.5, 0.5, "no finished run to draw", transform=axes.transAxes, ha="center", va="center", color=QUIET)


def size_colours(order: Sequence[str]) -> dict[str, Any]:
    """One colour per size: viridis without its palest end.

    Viridis keeps its order for colour-blind eyes and in grey.
    """
    shades = np.linspace(0.0, 0.82, max(len(order), 2))
    return {label: mpl.colormaps["viridis"](shade) for label, shade in zip(order, shades, strict=False)}


def size_dashes(order: Sequence[str]) -> dict[str, Any]:
    """One dash pattern per size, so that lines differ without colour."""
    return {label: LINE_STYLES[i % len(LINE_STYLES)] for i, label in enumerate(order)}


def short(label: str) -> str:
    """A label that fits a figure: letters that the font has, at most ``MAX_LABEL`` of them."""
    known = _letters()
    printable = "".join(letter if letter.isprintable() and ord(letter) in known else "·" for letter in label)
    printable = f"{_NOTHING}{printable}" if printable.startswith("_") else printable
    return printable if len(printable) <= MAX_LABEL else printable[: MAX_LABEL - 1] + "…"


@functools.cache
def _letters() -> frozenset[int]:
    """The code points of the letters that figures are written with."""
    return frozenset(get_font(findfont(FONT)).get_charmap())


def name_below(axes: Axes, places: Mapping[str, tuple[float, float]], left: Collection[str] = ()) -> None:
    """Write the name of each place (x, y) under it, or to the left of there. The limits of ``axes`` must be set.

    A name that would run into another place or into a shorter name is left out.
    """
    points = {name: _around(axes, place) for name, place in places.items()}
    written: list[BboxBase] = []
    for name in sorted(places, key=len):
        where: dict[str, Any] = {"xytext": (6 if name in left else 0, -14), "ha": "right" if name in left else "center"}
        look: dict[str, Any] = {"va": "baseline", "fontsize": "small", "path_effects": [withStroke(**_HALO)]}
        note = axes.annotate(short(name), places[name], textcoords="offset points", **where, **look)
        box = note.get_window_extent()
        others = (point for of, point in points.items() if of != name)
        if any(map(box.overlaps, (*written, *others))):
            note.remove()
        else:
            written.append(box)


def _around(axes: Axes, place: tuple[float, float]) -> Bbox:
    """The square around a marker at ``place``, in pixels of the canvas."""
    (x, y), half = axes.transData.transform(place), MARKER_RADIUS * axes.figure.dpi / 72
    return Bbox.from_bounds(x - half, y - half, 2 * half, 2 * half)


def legend_above(axes: Axes) -> None:
    """Put the legend over the axes, where it can hide no point, in as many columns as its names leave room for."""
    compact = {"columnspacing": 1.0, "handletextpad": 0.4, "handlelength": 1.6, "borderpad": 0.2}
    names = axes.get_legend_handles_labels()[1]
    columns = 3 if max(map(len, names), default=0) <= LONGEST_OF_THREE else 2
    axes.legend(loc="lower left", bbox_to_anchor=(-0.05, 1), ncols=columns, fontsize="small", frameon=False, **compact)


def log_axis(
    axes: Axes,
    which: Literal["x", "y"],
    low: float,
    high: float,
    form: Callable[[float], str],
    most: int | None = None,
) -> None:
    """Make an axis logarithmic from ``low`` to ``high``, with few (``most``), round and plainly written ticks."""
    ticks = log_ticks(low, high, most or (MAX_WIDE_TICKS if form is text.power else MAX_TICKS))
    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FixedFormatter([form(tick) for tick in ticks]))
    axis.set_minor_locator(NullLocator())


def axis_around(
    axes: Axes,
    which: Literal["x", "y"],
    values: pd.Series[float] | Array,
    form: Callable[[float], str],
    most: int | None = None,
    margin: float = MARGIN,
) -> None:
    """Make an axis logarithmic around ``values``, with the empty factor ``margin`` on both sides."""
    log_axis(axes, which, float(values.min()) / margin, float(values.max()) * margin, form, most)


def error_axis(axes: Axes, errors: pd.Series[float], margin: float = MARGIN) -> None:
    """Make the y axis one of errors in per cent, which ends not far above 100 %."""
    low, high = float(errors.min()) / margin, min(float(errors.max()) * margin, HIGHEST_ERROR)
    log_axis(axes, "y", low, high, text.round_percent)


def log_ticks(low: float, high: float, most: int = MAX_TICKS) -> list[float]:
    """Choose round numbers inside ``low .. high``: the finest pattern per decade that stays readable."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for pattern in _TICK_PATTERNS:
        candidates = (float(f"{digit}e{decade}") for decade in decades for digit in pattern)
        ticks = [tick for tick in candidates if low <= tick <= high]
        if len(ticks) <= most:
            return ticks
    stride = math.ceil(len(ticks) / most)
    return ticks[::stride]


def to_svg(figure: Figure) -> str:
    """Render ``figure`` as SVG; the same figure gives the same bytes."""
    buffer = io.StringIO()
    with mpl.rc_context(_RC):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


@dataclass(frozen=True)
class Palette:
    """The looks of a study's labels and of their groups: their sizes, or the labels where no size is scaled."""

    group_of: Mapping[str, str]
    groups: Sequence[str]
    """In order, from the smallest size."""
    colours: Mapping[str, Any]
    """By group."""
    dashes: Mapping[str, Any]
    """By label and by group: a size's own, or where labels share a size one for each of these."""

    def colour(self, label: str) -> Any:
        """The colour of ``label``: its size's."""
        return self.colours[self.group_of[label]]


def palette(study: Study) -> Palette:
    """Give every label of ``study`` the look of its size."""
    labels = label_order(study)
    by_label = not scales_sizes(study)
    group_of = {label: label for label in labels} if by_label else size_of(study)
    groups = labels if by_label else size_order(study)
    return Palette(group_of, groups, size_colours(groups), _dashes(group_of, groups))


def _dashes(group_of: Mapping[str, str], groups: Sequence[str]) -> dict[str, Any]:
    dashes = size_dashes(groups)
    if len(group_of) <= len(groups):
        return dashes | {label: dashes[group] for label, group in group_of.items()}
    for group in groups:
        dashes |= size_dashes([label for label, group_of_label in group_of.items() if group_of_label == group])
    return dashes


def readable(groups: Sequence[str], most: int = MAX_GROUPS) -> list[str]:
    """At most ``most`` of ``groups``, evenly spread with both ends."""
    if len(groups) <= most:
        return list(groups)
    step = (len(groups) - 1) / (most - 1)
    return [groups[round(i * step)] for i in range(most)]
