"""Numbers as people read them, the same in tables, figures and sentences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from analysis.fit.student import Interval

MINUS, TIMES, SPACE = "\u2212", "\u00d7", "\u00a0"  # the space does not break between a number and its unit
LEVEL = f"95{SPACE}%"
MISSING = "\u2013"
MOST_SPREAD = 100.0
"""Largest ratio of the ends of an interval that is printed as such; a wider one is said to be of no use."""
_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
EXPONENT = rf"\d+(?:\.\d+)?(?:(?:{SPACE}{TIMES}{SPACE}10)?[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+)?"
"""A pattern of a positive number as ``number`` and ``power`` write it, which may end in a power of ten."""
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(value: float) -> str:
    """At most three significant digits with an SI prefix: ``5.24 M``, ``1 M``."""
    if not math.isfinite(value):
        return MISSING
    for size, prefix in _PREFIXES:
        if abs(value) >= size * 0.9995:
            return f"{value / size:.3g}{SPACE}{prefix}"
    return f"{value:.3g}"


def integers(values: Iterable[float]) -> str:
    """Integers in full, from the least to the most: ``1,024``, ``500 to 1,024``."""
    known = list(values)
    return " to ".join(dict.fromkeys(f"{value:,.0f}" for value in (min(known), max(known))))


def power(value: float) -> str:
    """Scientific notation with real superscripts, two digits: 3.1 times 10 to the 15."""
    if not math.isfinite(value) or value <= 0:
        return MISSING
    mantissa, exponent = f"{value:.1e}".split("e")
    tens = f"10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    return tens if mantissa == "1.0" else f"{mantissa.removesuffix('.0')}{SPACE}{TIMES}{SPACE}{tens}"


def percent(fraction: float) -> str:
    """A fraction as a percentage with one decimal: ``41.3 %``."""
    return f"{100 * fraction:.1f}{SPACE}%".replace("-", MINUS) if math.isfinite(fraction) else MISSING


def round_percent(fraction: float) -> str:
    """A percentage without needless digits, for ticks: ``5 %``, ``0.5 %``."""
    return f"{100 * fraction:.3g}{SPACE}%"


def points(fraction: float) -> str:
    """A signed difference of two percentages: ``+6.1``; one that rounds to zero has no sign."""
    if not math.isfinite(fraction):
        return MISSING
    rounded = round(100 * fraction, 1)
    return f"{rounded:+.1f}".replace("-", MINUS) if rounded else "0.0"


def number(value: float) -> str:
    """Three significant digits, trailing zeros kept because they are part of the claim: ``0.200``."""
    if not math.isfinite(value):
        return MISSING
    size = abs(value)
    if size and not 1e-3 <= size < 1e4:
        return (MINUS if value < 0 else "") + power(size)
    digits = f"{size:#.3g}".rstrip(".") if size < 999.5 else f"{size:.0f}"
    return (MINUS if value < 0 else "") + (digits if size else "0")


def interval(values: Interval) -> str:
    """``0.081 to 0.16``; an infinite end is ``open``."""
    low, high = ("open" if math.isinf(end) else number(end) for end in (values.low, values.high))
    return f"{low} to {high}"


def is_useful(low: float, high: float) -> bool:
    """Whether both ends of an interval of what is above zero say something."""
    return low > 0 and high < MOST_SPREAD * low


def span(low: float, high: float, write: Callable[[float], str] = number) -> str:
    """``low to high`` of what is above zero; or how far the ends are apart, from ``MOST_SPREAD`` times on."""
    if is_useful(low, high):
        return f"{write(low)} to {write(high)}"
    apart = f"{math.log10(high / low):.1f} decades" if low > 0 and math.isfinite(high) else "without bounds"
    return f"too wide to be of use: {apart}"


def error_span(low: float, high: float) -> str:
    """An interval of an error in per cent, cut at 100 %: ``9.0 % to 15.0 %``."""
    return span(low, high, lambda error: percent(min(error, 1.0)))


def counted(n: int, noun: str) -> str:
    """``1 size``, ``5 sizes``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def places(n: int, point: str, sizes: int) -> str:
    """``5 budgets``; ``12 budgets of 4 sizes``, where budgets of one size share their noise."""
    return counted(n, point) + (f" of {counted(sizes, 'size')}" if sizes < n else "")
