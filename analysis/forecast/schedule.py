"""The learning rate along a curve: as a table has it, and as it is planned to its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from analysis.laws.law import Array
from nepa_scale.utils.errors import UserError, nearest

AT_PEAK = 0.99
"""The warm-up ends where the rate first reaches this share of its largest."""
AGREES = 0.02
"""How far, as a share of the peak, known rates may lie from the schedule that is stated."""
FALLS: dict[str, Callable[[Array], Array]] = {
    "constant": np.ones_like,
    "cosine": lambda done: (1 + np.cos(np.pi * done)) / 2,
    "poly": lambda done: 1 - done,
    "wsd": lambda done: 1 - np.sqrt(done),
}
"""What is left of the peak rate once a part of the fall is done, by the names that a training has for them."""
FEWEST_FALLING = 2


@dataclass(frozen=True)
class Schedule:
    """The learning ``rate`` [n] at rising ``x`` [n], on a straight line between."""

    x: Array
    rate: Array

    @property
    def peak(self) -> int:
        """Number of the first point that is past the warm-up."""
        return int(np.argmax(self.rate >= AT_PEAK * self.rate.max()))

    @property
    def sum_before_peak(self) -> float:
        """The rate summed over x until the peak: from 0 on a straight line to where the first point is a warm-up's."""
        first = self.rate[0] * self.x[0] / (1 if self.peak == 0 else 2)
        rate, x = self.rate[: self.peak + 1], self.x[: self.peak + 1]
        return float(first + ((rate[1:] + rate[:-1]) / 2 * np.diff(x)).sum())

    def fallen(self, x: float) -> float:
        """The share of the peak rate by which it has fallen at ``x``."""
        return 1 - float(np.interp(x, self.x, self.rate)) / float(self.rate[self.peak])


@dataclass(frozen=True)
class Planned:
    """A stated schedule: how the rate falls, and the x where the training ends."""

    fall: str
    end: float

    def continued(self, known: Schedule) -> Schedule:
        """``known`` and what follows it, to the end.

        A cosine or a straight line falls from the peak, wsd from where the known rates began to. Raises
        ``UserError`` where they do not follow what is stated.
        """
        last, peak = known.x[-1], known.rate.max()
        if self.end <= last:
            raise UserError(f"planned={self}: the rates are known to {last:.6g}; the end must lie beyond")
        start = self._start(known)
        places = np.unique(np.append(np.linspace(last, self.end, 200)[1:], max(start, np.nextafter(last, self.end))))

        def rate(x: Array) -> Array:
            fallen: Array = peak * FALLS[self.fall](np.clip((x - start) / (self.end - start), 0.0, 1.0))
            return fallen

        past = known.x >= known.x[known.peak]
        away = np.abs(rate(known.x[past]) - known.rate[past]).max() / peak
        if away > AGREES:
            raise UserError(f"planned={self}: the known rates lie up to {away:.0%} of their peak away from it")
        return Schedule(np.append(known.x, places), np.append(known.rate, rate(places)))

    def _start(self, known: Schedule) -> float:
        """Where the fall begins."""
        if self.fall != "wsd":
            return float(known.x[np.argmax(known.rate)])
        falling = np.flatnonzero(known.rate < AT_PEAK * known.rate.max())
        falling = falling[falling > known.peak]
        if len(falling) < FEWEST_FALLING:
            raise UserError(f"planned={self}: the known rates have not begun to fall; give rows with rates and no y")
        x, left = known.x[falling], known.rate[falling] / known.rate.max()
        done = (1 - left) ** 2  # a straight line from 0 at the start to 1 at the end
        start: float = np.median((x - done * self.end) / (1 - done))
        return start

    def __str__(self) -> str:
        return f"{self.fall}:{self.end:g}"


def read_planned(text: str) -> Planned:
    """Understand ``FALL:END``. Raises ``UserError``."""
    fall, _, end = text.partition(":")
    if fall not in FALLS:
        raise UserError(f"planned={text}: no such fall{nearest(fall, FALLS)} (there are: {', '.join(FALLS)})")
    try:
        value = float(end)
    except ValueError:
        value = float("nan")
    if not (np.isfinite(value) and value > 0):
        raise UserError(f"planned={text}: give FALL:END, END the x where the training ends, for example {fall}:1e9")
    return Planned(fall, value)
