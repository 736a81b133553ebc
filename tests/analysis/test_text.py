"""Numbers are written one way everywhere."""

from __future__ import annotations

import math

import pytest

from analysis import text
from analysis.fit.small_sample import Interval


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (text.count(25_000), "25 k"),
        (text.count(999_950), "1 M"),
        (text.count(85_054_464), "85.1 M"),
        (text.count(12), "12"),
        (text.power(3.1e15), "3.1 x 10¹⁵"),
        (text.power(1e-5), "10⁻⁵"),
        (text.percent(0.4132), "41.3 %"),
        (text.points(-0.061), "-6.1"),
        (text.points(-0.0003), "0.0"),
        (text.number(0.2), "0.200"),
        (text.number(-0.2034), "-0.203"),
        (text.number(163.2), "163"),
        (text.number(146_000), "1.5 x 10⁵"),
        (text.number(0), "0"),
        (text.number(math.nan), "(missing)"),
    ],
)
def test_numbers_as_written(written: str, expected: str) -> None:
    """Three digits, real minus signs and superscripts, and no unit that could break onto the next line."""
    plain = written.translate({0xA0: " ", 0x2212: "-", 0xD7: "x", 0x2013: "(missing)"})
    assert plain == expected
    assert " " not in written


def test_an_interval_without_end_says_so() -> None:
    """An infinite end is open, not a missing number."""
    assert text.interval(Interval(0.2, math.inf)) == "0.200 to open"
