"""What a fit answers: an interval, a prediction, or a reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class NoFit:
    """A law that was not fitted, and why."""

    reason: str

    def __str__(self) -> str:
        return f"no fit: {self.reason}"

    if not TYPE_CHECKING:  # to a type checker a NoFit has a reason, and nothing else

        def __getattr__(self, name: str) -> NoReturn:
            """Whoever asks it for what a fit has is told why there is none."""
            if name.startswith("_"):
                raise AttributeError(name)
            raise AttributeError(f"there is no '{name}', as the law was not fitted: {self.reason}")


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
