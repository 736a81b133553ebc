"""Answers that hold together: what all the tests of one page may err is stated, not what each may err alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from analysis.findings import text
from analysis.findings.answers import Finding
from analysis.fit.small_sample import CONFIDENCE

NOT_SHOWN = "Not shown"
SMALL = 1e-6
"""A p value that is given no closer."""
MAIN_SHARE = 0.5
"""Of the error that the main questions have at first; all others share the rest."""


def together(findings: Sequence[Finding]) -> list[Finding]:
    """``findings`` with the verdicts that hold together: in 5 % of pages at most chance makes any Yes or No of them.

    Weighted Holm (1979): the smallest p value over its share is compared first with its share of 5 %, and what it had
    is the others' once it has passed. A verdict that rests on less is "Not shown", and says what it needs.
    """
    tested = [one for one in findings if one.p is not None]
    needed = thresholds([float(one.p or 0.0) for one in tested], [one.main for one in tested])
    levels = iter(needed)
    return [one if one.p is None else _held(one, next(levels), len(tested)) for one in findings]


def thresholds(p: Sequence[float], main: Sequence[bool]) -> list[float]:
    """What each p value [m] was compared with; after the first that failed, its share of what is then left."""
    weights = _weights(main)
    levels, left = [0.0] * len(p), weights.sum() if len(weights) else 0.0
    passing = True
    for i in sorted(range(len(p)), key=lambda i: p[i] / weights[i]):
        levels[i] = float((1 - CONFIDENCE) * weights[i] / left)
        passing = passing and p[i] <= levels[i]
        if passing:
            left -= weights[i]
    return levels


def _weights(main: Sequence[bool]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    first = np.array(main, dtype=bool)
    share = MAIN_SHARE if first.any() and not first.all() else 1.0
    return np.where(first, share / max(first.sum(), 1), (1 - share if first.any() else 1.0) / max((~first).sum(), 1))


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
