"""Numbers are written one way everywhere."""

from __future__ import annotations

import math
import re

import pytest

from analysis.findings import text
from analysis.fit.student import Interval


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (text.count(25_000), "25 k"),
        (text.count(999_950), "1 M"),
        (text.count(85_054_464), "85.1 M"),
        (text.count(12), "12"),
        (text.power(3.1e15), "3.1 x 10¹⁵"),
        (text.power(1e-5), "10⁻⁵"),
        *((text.power(value), "(missing)") for value in (0.0, float("inf"), float("nan"))),
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


@pytest.mark.parametrize(
    ("low", "high", "useful"),
    [(0.09, 0.15, True), (0.3, 1.7, True), (0.004, 111.85, False), (0.0, 0.5, False), (0.2, math.inf, False)],
)
def test_intervals_that_say_nothing_are_called_so(low: float, high: float, useful: bool) -> None:
    """An error of 11185 % never stands on a page: an interval over decades is called useless, with its width."""
    written = text.error_span(low, high)
    assert ("too wide" not in written) == useful
    assert max((float(number) for number in re.findall(r"([\d.]+)\s%", written)), default=0) <= 100
    assert ("4.4 decades" in written) == (low == 0.004)


def test_counts_are_written_in_full() -> None:
    """One value once, several as a range."""
    assert (text.integers([1024, 1024]), text.integers([1024, 500])) == ("1,024", "500 to 1,024")


def test_an_interval_without_end_says_so() -> None:
    """An infinite end is open, not a missing number."""
    assert text.interval(Interval(0.2, math.inf)) == "0.200 to open"
