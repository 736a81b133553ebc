"""Whether several valleys share their lowest place, whatever form they have.

Their form is one of a family and the same for all sizes. Each hypothesis (one place for all; two places a step or more
apart; no restriction) takes the form that fits it best, so that a kink or a skew is not mistaken for a shift. What the
choice of a form takes from the noise is counted as a part of a degree of freedom, set by simulation
(``benchmarks/best_rate.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from scipy import special

from analysis.laws.law import Array
from analysis.optimum.valley import Points, family, minimum_between

FORM_TAKES = 0.75
"""Degrees of freedom that the choice of a form counts as."""
PRECISION = 1e-6
"""Noise is at least this share of the range of y: the search for a place is no more precise."""
FINE = 20
"""Steps of the grid of places to the distance that is asked about."""


@dataclass(frozen=True)
class Shared:
    """p values of there being one lowest place, and of two of them being a stated distance apart or more."""

    p_one: float
    p_apart: float


def shared_place(sizes: Sequence[Points], apart: float, left: int) -> Shared:
    """Test whether ``sizes`` [C] share their lowest place, and whether two lie ``apart``, in log x, or farther.

    ``left`` is what parabolas leave of the degrees of freedom.
    """
    valleys = _Valleys(sizes, apart)
    least, spare, count = valleys.free(), left - FORM_TAKES, len(sizes) - 1
    smallest = PRECISION * max(float(np.ptp(size.y)) for size in sizes)
    variance = max(least / spare, smallest**2)
    common, far = (max(rest - least, 0.0) / variance for rest in (valleys.common(), valleys.apart()))
    return Shared(float(special.fdtrc(count, spare, common / count)), float(special.fdtrc(1, spare, far)))


class _Valleys:
    """The least sums of squares over all forms, first on a grid of places and then between its points."""

    def __init__(self, sizes: Sequence[Points], apart: float) -> None:
        self._sizes, self._forms, self._step = sizes, family(sizes), apart / FINE
        low, high = min(size.reach[0] for size in sizes), max(size.reach[1] for size in sizes)
        self._places = np.arange(low, high + self._step, self._step)
        self._squares = np.array([[size.squares(form, self._places) for size in sizes] for form in self._forms])
        self._least = self._squares.min(axis=2)

    def free(self) -> float:
        """Each size is lowest at a place of its own."""
        return self._free(int(self._least.sum(axis=1).argmin()))

    def common(self) -> float:
        """All are lowest at one place."""
        together = self._squares.sum(axis=1)
        form, at = np.unravel_index(together.argmin(), together.shape)
        return self._near(int(form), int(at), dict.fromkeys(range(len(self._sizes)), 0))

    def apart(self) -> float:
        """Some two are lowest at places that are ``apart`` or farther, either way."""
        return min(self._apart(first, second) for first, second in permutations(range(len(self._sizes)), 2))

    def _apart(self, first: int, second: int) -> float:
        """The ``second`` is lowest so far above the ``first``, or farther; of others each at a place of its own."""
        here, above = self._squares[:, first, :-FINE], self._squares[:, second, FINE:]
        beyond = np.minimum.accumulate(above[:, ::-1], axis=1)[:, ::-1]
        others = self._least.sum(axis=1) - self._least[:, first] - self._least[:, second]
        total = here + beyond + others[:, None]
        form, at = (int(index) for index in np.unravel_index(total.argmin(), total.shape))
        if beyond[form, at] < above[form, at]:  # they are farther apart by themselves
            return self._free(form)
        alone = [size for which, size in enumerate(self._sizes) if which not in (first, second)]
        rest = sum(size.lowest(self._forms[form])[0] for size in alone)
        return rest + self._near(form, at, {first: 0, second: FINE})

    def _free(self, form: int) -> float:
        return sum(size.lowest(self._forms[form])[0] for size in self._sizes)

    def _near(self, form: int, at: int, offsets: Mapping[int, int]) -> float:
        """The least sum near the grid's place ``at``, of the sizes that ``offsets`` name, each so many steps above."""

        def total(places: Array) -> Array:
            sums = [
                self._sizes[which].squares(self._forms[form], places + steps * self._step)
                for which, steps in offsets.items()
            ]
            return np.asarray(np.sum(sums, axis=0))

        middle = float(self._places[at])
        return minimum_between(total, middle - self._step, middle + self._step)[0]
