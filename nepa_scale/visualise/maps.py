"""Attention and prediction maps of single query patches (paper, Figure 5), and the sheet on which they are drawn.

A sheet has strips, each an image with its query patch, attention maps and the similarity map.

Of a query patch at token t, with h the output of the final norm at t and e_j the input embedding of patch j:

* attention: the probabilities with which token t reads each patch, mean over the chosen blocks, then reduced over
  heads. They are those of the forward pass itself, after QK-norm, RoPE, mask and softmax. What falls on the class
  token is kept apart, so a map and its ``on_prefix`` sum to 1 (for a single head and for the mean).
* similarity: cosine(h, e_j) of every patch j. h predicts the embedding of the patch after the query.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray
from torch import Tensor, nn

from nepa_scale.models.nepa_vit import NepaViT


@dataclass(frozen=True)
class QueryMaps:
    """The maps of one query patch on a grid of H x W patches."""

    patch: int
    """the query's place in raster order"""
    attention: Tensor
    """[M, H, W]: one map for each head, or a single one that stands for all"""
    on_prefix: Tensor
    """[M]: attention on the class token; 0 without one"""
    similarity: Tensor
    """[H, W]: cosine between the prediction at the query and each patch's embedding"""


@torch.no_grad()
def query_maps(
    backbone: NepaViT, image: Tensor, patches: Sequence[int], *, layers: Sequence[int], heads: str
) -> list[QueryMaps]:
    """Return the maps of ``patches`` of one image [3, H, W].

    Args:
        layers: indices of the blocks whose attention is averaged.
        heads: ``mean`` or ``max`` over the heads, or ``none``: a map for each head.
    """
    prefix, grid = backbone.num_prefix_tokens, backbone.patch_embed.grid_size
    tokens = [prefix + patch for patch in patches]
    with _evaluating(backbone), recorded_attention(backbone, layers, tokens) as recorded:
        z, z_hat = backbone.next_embeddings(image[None])
    attention = reduce_heads(torch.stack(recorded).mean(dim=0)[0], heads)
    similarity = F.normalize(z_hat[0, tokens], dim=-1) @ F.normalize(z[0, prefix:], dim=-1).T
    return [
        QueryMaps(
            patch,
            attention=attention[:, index, prefix:].unflatten(-1, grid),
            on_prefix=attention[:, index, :prefix].sum(dim=-1),
            similarity=similarity[index].unflatten(-1, grid),
        )
        for index, patch in enumerate(patches)
    ]


@contextmanager
def recorded_attention(backbone: NepaViT, layers: Sequence[int], tokens: Sequence[int]) -> Iterator[list[Tensor]]:
    """Collect the attention probabilities [B, heads, len(tokens), T] of ``tokens`` in each forward pass inside.

    There is one tensor for each of ``layers``, from the bottom up. The fused kernel does not give them away, so
    these blocks take timm's written-out path meanwhile, whose softmax goes through the (idle) attention dropout.
    """
    recorded: list[Tensor] = []
    modules: list[Any] = [block.attn for index, block in enumerate(backbone.blocks) if index in layers]
    fused = [module.fused_attn for module in modules]

    def record(_dropout: nn.Module, inputs: tuple[Tensor]) -> None:
        recorded.append(inputs[0][:, :, tokens])

    hooks = [module.attn_drop.register_forward_pre_hook(record) for module in modules]
    try:
        for module in modules:
            module.fused_attn = False
        yield recorded
    finally:
        for hook, module, before in zip(hooks, modules, fused, strict=True):
            hook.remove()
            module.fused_attn = before


def reduce_heads(attention: Tensor, heads: str) -> Tensor:
    """Reduce attention [heads, ...] over the heads: [1, ...] for ``mean`` and ``max``, unchanged for ``none``."""
    if heads == "none":
        return attention
    return attention.mean(dim=0, keepdim=True) if heads == "mean" else attention.amax(dim=0, keepdim=True)


@contextmanager
def _evaluating(backbone: NepaViT) -> Iterator[None]:
    """No stochastic depth and no rescaled RoPE inside."""
    was_training = backbone.training
    backbone.eval()
    try:
        yield
    finally:
        backbone.train(was_training)


DPI, POINTS = 110, 72  # pixels and points of an inch
PANEL, GAP = 1.6, 0.16  # inches
TITLE, HEADING, BAR_GAP, BAR, TICKS = 0.24, 0.18, 0.06, 0.07, 0.24  # heights above and below a panel
MARGIN, TOP, BOTTOM = 0.2, 0.34, 0.3
PIXELS = PANEL * DPI  # of a panel; a smaller image is drawn with the pixels that the model sees
PANELS_PER_ROW = 6
ATTENTION_GAMMA = 0.5
SOFTMAX_GAMMA = 10.0
MINUS = "\N{MINUS SIGN}"
INK, QUIET, UNSEEN = "#1f2430", "#6b7280", "#c9ccd1"
_RC: Any = {
    "text.parse_math": False,  # a `$` in a file name is a `$`
    "font.family": "DejaVu Sans",  # shipped with matplotlib: the same picture on every machine
    "font.size": 7,
    "text.color": INK,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.5,
    "xtick.color": QUIET,
    "xtick.labelcolor": INK,
}


@dataclass(frozen=True)
class Map:
    """Values [H, W] on the grid of patches, with what stands above them on the left and on the right."""

    heading: str
    values: NDArray[np.float32]
    remark: str = ""


@dataclass(frozen=True)
class Strip:
    """One query patch with its image and maps, which are on a grid of H x W patches."""

    title: str
    image: NDArray[np.uint8]
    """pixels [S, S, 3]"""
    query: tuple[int, int]
    """row and column of the query patch"""
    target: tuple[int, int]
    """row and column of the patch whose embedding is predicted"""
    attention: list[Map]
    similarity: Map
    unseen: NDArray[np.bool_]
    """patches [H, W] that the query cannot attend to"""
    softmax: bool = False
    """the similarity map holds a softmax over the patches, to be drawn as the authors' script does"""


def draw(strips: Sequence[Strip], title: str) -> bytes:
    """Return a PNG of all ``strips``, which have equally many maps."""
    panels = 2 + len(strips[0].attention)
    per_row = max(1, min(len(strips), PANELS_PER_ROW // panels))
    rows = -(-len(strips) // per_row)
    strip_width = panels * PANEL + (panels - 1) * GAP
    strip_height = TITLE + HEADING + PANEL + BAR_GAP + BAR + TICKS
    width = per_row * strip_width + (per_row - 1) * 2 * GAP + 2 * MARGIN
    height = TOP + rows * strip_height + BOTTOM
    with mpl.rc_context(_RC):
        figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        figure.text(MARGIN / width, 1 - TOP / 2 / height, title, va="center", fontsize=8.5, weight="bold")
        for index, strip in enumerate(strips):
            row, column = divmod(index, per_row)
            left = MARGIN + column * (strip_width + 2 * GAP)
            _draw_strip(_Corner(figure, left, height - TOP - row * strip_height), strip)
        _draw_key(figure, unseen=any(strip.unseen.any() for strip in strips))
        buffer = io.BytesIO()
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


@dataclass(frozen=True)
class _Corner:
    """Where a strip's top left corner is, in inches from the figure's bottom left."""

    figure: Figure
    left: float
    top: float

    def axes(self, right: float, down: float, width: float, height: float) -> Axes:
        """Axes at a distance from the corner."""
        figure_width, figure_height = self.figure.get_size_inches()
        box = (self.left + right, self.top - down - height, width, height)
        return self.figure.add_axes(
            (box[0] / figure_width, box[1] / figure_height, box[2] / figure_width, box[3] / figure_height)
        )


def _draw_strip(corner: _Corner, strip: Strip) -> None:
    nothing = np.zeros_like(strip.unseen)
    axes = _panel(corner, 0, "image", "", strip)
    axes.imshow(strip.image, extent=_extent(strip), interpolation="nearest" if len(strip.image) < PIXELS else "auto")
    above = 1 + (HEADING + 0.09) / PANEL
    axes.text(0, above, strip.title, transform=axes.transAxes, va="baseline", fontsize=7.5, weight="bold")
    for column, map_ in enumerate(strip.attention, start=1):
        _draw_map(corner, column, map_, strip, "magma", _attention_norm(map_.values), strip.unseen)
    norm = _similarity_norm(strip.similarity.values, strip.softmax)
    _draw_map(corner, len(strip.attention) + 1, strip.similarity, strip, "viridis", norm, nothing)


def _draw_map(
    corner: _Corner, column: int, map_: Map, strip: Strip, colours: str, norm: Normalize, hidden: NDArray[np.bool_]
) -> None:
    palette = mpl.colormaps[colours].with_extremes(bad=UNSEEN)
    cells = np.ma.masked_where(hidden, map_.values)
    axes = _panel(corner, column, map_.heading, map_.remark, strip)
    axes.imshow(cells, cmap=palette, norm=norm, extent=_extent(strip), interpolation="nearest")
    down = TITLE + HEADING + PANEL + BAR_GAP
    _colour_bar(corner.axes(column * (PANEL + GAP), down, PANEL, BAR), palette, norm)


def _panel(corner: _Corner, column: int, heading: str, remark: str, strip: Strip) -> Axes:
    """Empty axes in units of patches, with headings, query and target marked."""
    axes = corner.axes(column * (PANEL + GAP), TITLE + HEADING, PANEL, PANEL)
    rows, columns = strip.unseen.shape
    axes.set(xlim=(0, columns), ylim=(rows, 0), xticks=[], yticks=[])
    axes.set_title(heading, fontsize=7, pad=2.5, loc="left", color=INK)
    axes.set_title(remark, fontsize=6.5, pad=2.5, loc="right", color=QUIET)
    on_top: Any = {"zorder": 3, "clip_on": False}
    row, column = strip.query
    for colour, line in (("black", 2.6), ("white", 1.2)):  # both together stand out on any picture
        axes.add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor=colour, linewidth=line, **on_top))
    row, column = strip.target
    size = 0.45 * PANEL * POINTS / max(rows, columns)
    for colour, line in (("black", 2.4), ("white", 1.1)):
        style: Any = {"marker": "o", "markersize": size, "markeredgewidth": line, "fillstyle": "none", **on_top}
        axes.plot(column + 0.5, row + 0.5, color=colour, **style)
    return axes


def _extent(strip: Strip) -> tuple[float, float, float, float]:
    rows, columns = strip.unseen.shape
    return 0, columns, rows, 0


def _attention_norm(values: NDArray[np.float32]) -> Normalize:
    """Colours from zero to the largest value, widened where attention is small."""
    return PowerNorm(ATTENTION_GAMMA, vmin=0, vmax=float(values.max()) or 1.0)


def _similarity_norm(values: NDArray[np.float32], softmax: bool) -> Normalize:
    low, high = float(values.min()), float(values.max())
    return PowerNorm(SOFTMAX_GAMMA, low, high) if softmax else Normalize(low, high)


def _colour_bar(axes: Axes, palette: Any, norm: Normalize) -> None:
    """A bar below a map: its range, and the value that has the middle colour."""
    axes.imshow(np.linspace(0, 1, 256)[None], cmap=palette, aspect="auto", extent=(0, 1, 0, 1))
    places = (0.0, 0.5, 1.0)
    values = [float(norm.inverse(place)) for place in places]
    axes.set_xticks(places, [f"{value:.2g}".replace("-", MINUS) for value in values])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=2, width=0.5, pad=1.5, labelsize=6.5)
    sides: tuple[Literal["left", "center", "right"], ...] = ("left", "center", "right")
    for label, side in zip(axes.get_xticklabels(), sides, strict=True):
        label.set_horizontalalignment(side)


def _draw_key(figure: Figure, *, unseen: bool) -> None:
    mark: Any = {"linestyle": "none", "fillstyle": "none", "color": INK}
    key: list[Any] = [
        Line2D([], [], marker="s", label="query patch", **mark),
        Line2D([], [], marker="o", label="target: the patch it predicts", **mark),
    ]
    if unseen:
        key.append(Patch(facecolor=UNSEEN, label="hidden by the causal mask: exactly 0"))
    figure.legend(handles=key, loc="lower center", ncols=len(key), frameon=False, fontsize=7, handletextpad=0.4)
