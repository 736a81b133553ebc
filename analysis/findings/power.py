"""How many sizes, pairs or seeds a test would need to show what was estimated, at the noise that was measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy import stats

POWER = 0.8
MOST = 200
"""An effect that needs more is too small to be found this way."""


@dataclass(frozen=True)
class Effect:
    """An estimate with Student's t, and what makes it surer."""

    t: float
    """The estimate over its standard error."""
    n: int
    """Of its unit: sizes, pairs, seeds."""
    taken: int
    """Degrees of freedom that the estimate takes; the others are n less these."""
    unit: str | None
    """None where there is nothing to have more of but seeds."""
    spread: float | None = None
    """Of a line: the sum of squared distances of the places from their mean, over their squared range."""
    seeds: bool = True
    """Whether more seeds of each place could make it surer, too."""

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
