"""What a fit answers: an interval, a prediction, or a reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class NoFit:
    """A law that was not fitted, and why."""

    reason: str


@dataclass(frozen=True)
class Interval:
    """A 95 % interval ``low .. high``."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Prediction:
    """The law at some x [...]: its value and the 95 % prediction interval of one further point there."""

    y: Array
    low: Array
    high: Array
