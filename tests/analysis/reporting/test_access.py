"""The page for readers who see little, see no colour, or hear it: contrast, headings, text alternatives."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from law_studies import StudySpec, write_study
from matplotlib.colors import to_rgb
from pages import Page

from analysis.findings.scaling import find
from analysis.reporting import compare as side_by_side
from analysis.reporting.compare import named
from analysis.reporting.figures import drawing
from analysis.reporting.figures.label_plots import LOOKS
from analysis.reporting.page import TEMPLATES
from analysis.reporting.render import render
from analysis.study.records import read_study

MakeStudy = Callable[..., Path]
ENOUGH, ENOUGH_FOR_LINES = 4.5, 3.0  # WCAG 2.2, 1.4.3 and 1.4.11
TEXTS, GROUNDS = ("ink", "quiet", "accent", "good", "bad", "unsure"), ("page", "card")


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours, 1 to 21."""
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def schemes() -> list[dict[str, str]]:
    """The colours of the style sheet by name, light and dark."""
    css = (TEMPLATES / "report.css").read_text()
    return [dict(re.findall(r"--(\w+): (#\w+)", block)) for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL)]


def test_the_formula_is_that_of_the_standard() -> None:
    """Black on white is 21, and the grey that is known to just pass passes."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("ground", GROUNDS)
def test_every_text_has_contrast_enough(scheme: int, ground: str) -> None:
    """Each colour that words are written in, on each ground they stand on, light and dark."""
    colours = schemes()[scheme]
    assert {name: round(contrast(colours[name], colours[ground]), 2) for name in TEXTS}.items() <= {
        name: ratio for name in TEXTS if (ratio := round(contrast(colours[name], colours[ground]), 2)) >= ENOUGH
    }.items()


def test_no_colour_comes_from_elsewhere() -> None:
    """Words take their colours from the named ones, so that the check above holds for all of them."""
    css = (TEMPLATES / "report.css").read_text()
    outside = re.sub(r":root \{.*?\}", "", css, flags=re.DOTALL)
    assert set(re.findall(r"(?<![-\w])color: ([^;]+);", outside)) <= {*(f"var(--{n})" for n in TEXTS), "inherit"}
    assert "opacity" not in css


def test_figures_have_contrast_enough() -> None:
    """Words in figures, which stay white in the dark, and the lines of studies set side by side."""
    for colour in (drawing.INK, drawing.QUIET):
        assert contrast(colour, "#ffffff") >= ENOUGH
    for colour, _, _ in LOOKS:
        assert contrast(colour, "#ffffff") >= ENOUGH_FOR_LINES


@pytest.mark.slow(seconds=7)
def test_headings_are_in_order_and_figures_have_words(make_study: MakeStudy, tmp_path: Path) -> None:
    """One h1, no level left out, and for every picture a sentence with its numbers; on both kinds of page."""
    study = read_study(make_study())
    other = read_study(write_study(tmp_path / "other", StudySpec(name="other", scratch=False)))
    for html in (render(study, find(study)), side_by_side.render(named([study, other]))):
        page = Page(html)
        assert page.headings[0] == 1 and page.headings.count(1) == 1
        assert all(after - before <= 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
        assert page.tags.count("img") == len(page.alternatives) > 0
        assert all(re.search(r"\d", alt) and len(alt) > 40 for alt in page.alternatives)
        assert '<html lang="en">' in html and page.tags.count("main") == 1
