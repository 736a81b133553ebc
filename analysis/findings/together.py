"""Answers that hold together: what all the tests of one page may err is stated, not what each may err alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from analysis.findings import text
from analysis.findings.answers import Finding
from analysis.fit.student import CONFIDENCE

NOT_SHOWN = "Not shown"
SMALL = 1e-6
"""A p value that is given no closer."""
MAIN_SHARE = 0.8
"""Of the error that the main questions have, where there are others beside them."""


def together(findings: Sequence[Finding]) -> list[Finding]:
    """``findings`` with the verdicts that hold together: in 5 % of pages at most chance makes any Yes or No of them.

    The main questions are asked in the order of the page, each at their whole share of the 5 %, as long as all before
    it were answered (a fixed sequence, Maurer et al. 1995). All others, and what is left of the main ones, share the
    rest by Holm (1979), and the whole 5 % once every main question is answered. A verdict that needs less than it has
    is "Not shown", and says so.
    """
    tested = [one for one in findings if one.p is not None]
    needed = thresholds([float(one.p or 0.0) for one in tested], [one.main for one in tested])
    levels = iter(needed)
    return [one if one.p is None else _held(one, next(levels), len(tested)) for one in findings]


def thresholds(p: Sequence[float], main: Sequence[bool]) -> list[float]:
    """What each p value [m] was compared with, of main questions that were not reached what the others had."""
    error = 1 - CONFIDENCE
    levels, left = [0.0] * len(p), list(range(len(p)))
    share = MAIN_SHARE * error if not all(main) else error
    for i in (i for i in range(len(p)) if main[i]):
        levels[i] = share
        if p[i] > share:
            break
        left.remove(i)
    rest = error - share if any(main[i] for i in left) else error
    passing = True
    for i in sorted(left, key=lambda i: p[i]):
        levels[i] = max(levels[i], rest / len(left))
        passing = passing and p[i] <= levels[i]
        if passing:
            left.remove(i)
    return levels


def _held(one: Finding, level: float, tests: int) -> Finding:
    """``one`` of so many ``tests``, which needs a p value of ``level``."""
    one = replace(one, level=level)
    if one.p is None or tests == 1 or one.p > 1 - CONFIDENCE:
        return one
    if one.p <= level:
        return replace(one, detail=f"{one.detail} It holds beside the other tests of this page ({_p(one.p)}).".strip())
    said = (
        f"Alone this would be {one.verdict} ({_p(one.p)}), but {tests} tests of one page find something by chance "
        f"too often: together they need {_p(level)} here."
    )
    return replace(one, verdict=NOT_SHOWN, detail=f"{said} {one.detail}".strip())


def _p(value: float) -> str:
    return f"p = {text.number(value)}" if value >= SMALL else f"p < {text.power(SMALL)}"
