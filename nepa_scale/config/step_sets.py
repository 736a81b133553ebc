"""Sets of training steps such as "every 100th": counting one takes no longer the more steps there are.

Free of torch.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class StepSet:
    """The steps from 1 to ``last`` that are a multiple of one of the ``periods``, or among the ``others``."""

    last: int
    periods: frozenset[int] = frozenset()
    others: frozenset[int] = frozenset()

    def __contains__(self, step: int) -> bool:
        return 1 <= step <= self.last and (step in self.others or self._is_regular(step))

    def __or__(self, other: StepSet) -> StepSet:
        """The steps of either. Raises ``ValueError`` unless both have the same ``last``."""
        if self.last != other.last:
            raise ValueError(f"sets of steps up to {self.last} and up to {other.last}")
        return StepSet(self.last, self.periods | other.periods, self.others | other.others)

    def count(self, after: int = 0) -> int:
        """How many steps of the set come after the step ``after``."""
        return self._up_to(self.last) - self._up_to(min(after, self.last))

    def _is_regular(self, step: int) -> bool:
        return any(step % period == 0 for period in self.periods)

    def _up_to(self, step: int) -> int:
        """How many steps of the set are at most ``step``: multiples by inclusion and exclusion, then the others."""
        groups = (
            group
            for size in range(1, len(self.periods) + 1)
            for group in itertools.combinations(sorted(self.periods), size)
        )
        multiples = sum((-1) ** (len(group) + 1) * (step // math.lcm(*group)) for group in groups)
        return multiples + sum(1 <= other <= step and not self._is_regular(other) for other in self.others)


def every(period: int, last: int) -> StepSet:
    """Every ``period``-th step up to ``last``; none where ``period`` is 0."""
    return StepSet(last, frozenset({period} if period else ()))
