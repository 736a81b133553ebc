"""A finding: a question of the report with its answer. All findings of a page are tested together, and what is not
shown says what would show it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from scipy import stats

from analysis.findings import text
from analysis.fit.student import CONFIDENCE
from analysis.study.records import Study

POWER = 0.8
MOST = 200
"""An effect that needs more is too small to be found this way."""
NOT_SHOWN = "Not shown"
SMALL = 1e-6
"""A p value that is given no closer."""
MAIN_SHARE = 0.8
"""Of the error that the main questions have, where there are others beside them."""
HOUR = 3600.0


@dataclass(frozen=True)
class Finding:
    """One question, the short answer, and how sure it is."""

    question: str
    verdict: str
    """Yes, No, Not shown, or Cannot say."""
    answer: str
    detail: str = ""
    p: float | None = None
    """How likely chance alone gives the evidence for a Yes or No, or more; None of a verdict that is no test."""
    main: bool = False
    """Whether the page is about it first: of what all tests together may err, these have the larger share."""
    effect: Effect | None = None
    """What the test rests on, and what would make it surer."""
    level: float | None = None
    """What ``p`` was compared with, beside the other tests of the page; None before that."""


@dataclass(frozen=True)
class Effect:
    """An estimate with Student's t, and what makes it surer."""

    t: float
    """The estimate over its standard error."""
    n: int
    """Of its unit: sizes, pairs, seeds."""
    taken: float
    """Degrees of freedom that the estimate takes; the others are n less these."""
    unit: str | None
    """None where there is nothing to have more of but seeds."""
    spread: float | None = None
    """Of a line: the sum of squared distances of the places from their mean, over their squared range."""
    seeds: bool = True
    """Whether more seeds of each place could make it surer, too."""
    settings: float | None = None
    """How many labels and seeds of the study one of its units is; None for an equal share of all."""

    def of(self, n: int) -> float:
        """The t that the same estimate has with ``n``: of a line, with places spread evenly between the same ends."""
        if self.spread is None:
            return self.t * math.sqrt(n / self.n)
        return self.t * math.sqrt(n * (n + 1) / (12 * (n - 1)) / self.spread)

    def enough(self, level: float) -> int | None:
        """The least n with 80 % power at ``level``; None where that is too many, or of no use."""
        if self.unit is None:
            return None
        return _least(lambda n: power(self.of(n), n - self.taken, level), self.n + 1)

    def enough_seeds(self, level: float) -> int | None:
        """How many times the seeds would do, if they alone made the noise; None where too many, or of no use."""
        if not self.seeds:
            return None
        return _least(lambda times: power(self.t * math.sqrt(times), self.n - self.taken, level), 2)


def power(t: float, degrees: float, level: float) -> float:
    """How often a two-sided test at ``level`` shows an effect of ``t`` standard errors."""
    limit = float(stats.t.isf(level / 2, degrees))
    return float(stats.nct.sf(limit, degrees, abs(t)))


def _least(has: Callable[[int], float], low: int) -> int | None:
    """The least number from ``low`` to ``MOST`` for which ``has``, which rises, reaches ``POWER``."""
    if has(MOST) < POWER:
        return None
    high = MOST
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if has(middle) >= POWER else (middle + 1, high)
    return low


def correct_verdicts(findings: Sequence[Finding]) -> list[Finding]:
    """Correct the verdicts of ``findings`` for multiple tests: chance makes a Yes or No in at most 5 % of pages.

    The main questions are tested in the order of the page, each at their full share of the 5 %, until one is not shown
    (fixed sequence, Maurer et al. 1995). All others, and the main ones that were not reached, share the rest by Holm
    (1979); once every main question is answered they share the full 5 %. A verdict whose p value is above its level
    becomes "Not shown", with the reason.
    """
    tested = [finding for finding in findings if finding.p is not None]
    needed = thresholds([float(finding.p or 0.0) for finding in tested], [finding.main for finding in tested])
    levels = iter(needed)
    return [finding if finding.p is None else _held(finding, next(levels), len(tested)) for finding in findings]


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


def _held(finding: Finding, level: float, tests: int) -> Finding:
    """``finding`` of so many ``tests``, which needs a p value of ``level``."""
    finding = replace(finding, level=level)
    if finding.p is None or tests == 1 or finding.p > 1 - CONFIDENCE:
        return finding
    if finding.p <= level:
        return replace(
            finding, detail=f"{finding.detail} It holds beside the other tests of this page ({_p(finding.p)}).".strip()
        )
    said = (
        f"Alone this would be {finding.verdict} ({_p(finding.p)}), but {tests} tests of one page find something by "
        f"chance too often: together they need {_p(level)} here."
    )
    return replace(finding, verdict=NOT_SHOWN, detail=f"{said} {finding.detail}".strip())


def _p(value: float) -> str:
    return f"p = {text.number(value)}" if value >= SMALL else f"p < {text.power(SMALL)}"


def with_settling(study: Study, findings: Sequence[Finding]) -> list[Finding]:
    """``findings``, each that is not shown with what would show its estimate in 80 % of studies."""
    costs, pairs = _costs(study)
    return [
        replace(finding, detail=f"{finding.detail} {_said(finding.effect, finding.level, costs, pairs)}".strip())
        if finding.verdict == NOT_SHOWN and finding.effect is not None and finding.level is not None
        else finding
        for finding in findings
    ]


def _said(effect: Effect, level: float, costs: tuple[float, float], pairs: int) -> str:
    """What would settle it, and what that costs in a study of so many ``pairs`` of labels and seeds."""
    what = f"What would settle it: were the estimate true, at this noise {POWER:.0%} of studies show it with"
    n, times = effect.enough(level), effect.enough_seeds(level)
    each = pairs / effect.n if effect.settings is None else effect.settings
    ways = []
    if n is not None:
        cost = _cost((n - effect.n) * each, costs)
        ways.append(f"{text.counted(n, effect.unit or 'seed')} instead of {effect.n} ({cost})")
    if times is not None:
        cost = _cost((times - 1) * effect.n * each, costs)
        ways.append(f"{times} times the seeds of each, if the noise is that of seeds ({cost})")
    if not ways:
        return (
            f"What would settle it: no number of {effect.unit or 'seed'}s up to {MOST}; the estimate is too small for "
            "this noise."
        )
    return f"{what.replace('%', f'{text.SPACE}%')} {', or '.join(ways)}."


def _cost(more: float, costs: tuple[float, float]) -> str:
    """What so many more points of the study cost."""
    flops, seconds = (more * cost for cost in costs)
    known = [f"{text.power(flops)} FLOPs"] if flops else []
    known += [f"{text.number(seconds / HOUR)} hours"] if seconds else []
    return f"about {' and '.join(known)} more" if known else "what they cost is not known"


def _costs(study: Study) -> tuple[tuple[float, float], int]:
    """FLOPs and seconds of one label and seed with all its tasks, starts and tries, on average: planned, else measured;
    0 where neither is known. And how many labels and seeds there are."""
    rows = study.tried
    means, pairs = [], 0
    for planned, measured in (("planned_flops", "flops_train"), ("planned_seconds", "wall_seconds")):
        cost = rows[planned].fillna(rows[measured]) if measured in rows else rows[planned]
        sums = cost.groupby([rows["label"], rows["seed"].fillna(0)]).sum()
        means.append(float(sums.mean()) if len(sums) else 0.0)
        pairs = len(sums)
    return (means[0], means[1]), pairs
