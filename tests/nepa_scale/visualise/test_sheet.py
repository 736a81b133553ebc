"""A sheet shows the numbers it is given, in the stated colours, at a fixed size, the same bytes each time."""

from __future__ import annotations

import io
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from nepa_scale.visualise.maps import UNSEEN, Map, Strip, draw

GRID = 4
CAUSAL = np.arange(GRID**2).reshape(GRID, GRID) > 9


def strip(**changes: object) -> Strip:
    """A strip whose maps count up; the query is patch 9."""
    values = np.arange(GRID**2, dtype=np.float32).reshape(GRID, GRID)
    whole = Strip(
        title="a",
        image=np.full((32, 32, 3), (0, 128, 255), np.uint8),
        query=(2, 1),
        target=(2, 2),
        attention=[Map("attention", np.where(CAUSAL, 0, values).astype(np.float32))],
        similarity=Map("similarity", values - 5),
        unseen=CAUSAL,
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def pixels(png: bytes) -> NDArray[np.uint8]:
    """The picture [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def area(picture: NDArray[np.uint8], colour: object) -> int:
    """How many pixels have this colour, to a step of the colour map."""
    rgb = np.array(mpl.colors.to_rgb(colour)) * 255  # type: ignore[arg-type]
    return int((abs(picture - rgb) < 4).all(axis=-1).sum())


def test_patches_have_the_colours_of_their_values() -> None:
    """Similarity runs linearly over viridis from its least to its largest value, every cell with its own colour."""
    picture = pixels(draw([strip()], "title"))
    for value in (1, 4, 8, 13):  # cells without a mark on them
        colour = mpl.colormaps["viridis"](value / (GRID**2 - 1))
        assert area(picture, colour) > 1000


def test_attention_is_widened_by_a_square_root() -> None:
    """Attention starts at black for 0; half of the colour map is reached at a quarter of the largest value."""
    weights = np.array([[0, 1, 4, 16]] * GRID, np.float32)
    shown = strip(attention=[Map("attention", weights)], unseen=np.zeros_like(CAUSAL))
    picture = pixels(draw([shown], "title"))
    for value in (0.0, 0.25, 0.5, 1.0):
        assert area(picture, mpl.colormaps["magma"](value)) > 1000


def test_hidden_patches_are_grey_and_only_they() -> None:
    """What a causal model cannot see is told apart from what it does not look at, and the key says so."""
    hidden = area(pixels(draw([strip()], "title")), UNSEEN)
    seen = area(pixels(draw([strip(unseen=np.zeros_like(CAUSAL))], "title")), UNSEEN)
    panel = (1.6 * 110) ** 2  # inches times dots
    assert seen < 0.01 * panel
    assert hidden == pytest.approx(CAUSAL.mean() * panel, rel=0.15)


def test_softmax_is_drawn_with_the_authors_power() -> None:
    """The authors raise the stretched map to the power 10: only what is nearly the largest is bright."""
    picture = pixels(draw([strip(softmax=True)], "title"))
    assert area(picture, mpl.colormaps["viridis"]((13 / 15) ** 10)) > 1000
    assert area(picture, mpl.colormaps["viridis"](13 / 15)) < 50


def test_the_same_strips_give_the_same_bytes() -> None:
    """A picture changes only when what it shows changes."""
    strips = [strip(title=f"image {number}") for number in range(3)]
    assert draw(strips, "title") == draw(strips, "title")
    assert draw(strips, "title") != draw([*strips[:2], strip(query=(0, 0))], "title")


@pytest.mark.slow(seconds=3)
@pytest.mark.parametrize("maps", [1, 4, 12])
def test_strips_stand_beside_each_other_while_they_fit(maps: int) -> None:
    """Two strips of three panels share a row, wider ones stand below each other, and all is drawn."""
    shown = strip(attention=[Map(f"head {number}", CAUSAL.astype(np.float32)) for number in range(maps)])
    one, two = (pixels(draw([shown] * count, "title")).shape for count in (1, 2))
    wider, higher = two[1] > 1.5 * one[1], two[0] > 1.5 * one[0]
    assert (wider, higher) == ((True, False) if maps == 1 else (False, True))


@pytest.mark.filterwarnings("error")
def test_odd_content_is_drawn() -> None:
    """Constant maps have no range to stretch, and a file name may hold anything."""
    same = np.zeros((GRID, GRID), np.float32)
    odd = strip(title="$a_b$ {x} <y>", attention=[Map("attention", same)], similarity=Map("similarity", same + 1))
    for shown in (odd, replace(odd, softmax=True)):
        assert area(pixels(draw([shown], "$\\frac")), (0, 128 / 255, 1)) > 1000
