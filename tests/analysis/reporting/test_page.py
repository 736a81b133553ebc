"""Sentences as the page shows them."""

from __future__ import annotations

from conftest import MakeStudy

from analysis.findings.finding import Finding
from analysis.findings.text import number
from analysis.reporting.render import render
from analysis.study.records import read_study


def test_an_exponent_is_raised_as_a_whole(make_study: MakeStudy) -> None:
    """However it is written: of one that is raised in part the rest reads as a factor."""
    written = [number(exponent) for exponent in (-2.2e-5, 2e-5, -1e-5, 1e-12, 0.0, 0.2, -1.0, 12.0)]
    said = [Finding("Does it fall?", "Yes", f"As N^{exponent}: so it is, x^2.") for exponent in written]
    html = render(read_study(make_study(sizes={"micro": 98_304}, scratch=False)), said)
    for exponent in written:
        assert f"As N<sup>{exponent}</sup>: so it is, x<sup>2</sup>." in html
