"""What every law is: a name, a source, parameters, and its logarithm with an analytic gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

Evaluate = Callable[[Array, Array], tuple[Array, Array]]
"""(theta [S, P], columns [V, n]) -> log y [S, n] and its gradient by theta [S, n, P]."""
Starts = Callable[[Array, Array], Array]
"""(columns [V, n], y [n]) -> theta [S, P] to start searches from."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a law. A ``positive`` one is searched by its logarithm, so that no bound is needed."""

    name: str
    positive: bool = True


@dataclass(frozen=True)
class Law:
    """A form ``y = f(x; parameters)`` with y > 0.

    ``variables`` names the columns it reads, in order; ``evaluate`` works on internal coordinates theta [S, P]
    (the logarithm of positive parameters) of S searches at once.
    """

    name: str
    formula: str
    source: str
    variables: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    evaluate: Evaluate
    starts: Starts

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in order."""
        return tuple(parameter.name for parameter in self.parameters)

    def natural(self, theta: Array) -> Array:
        """Parameters [..., P] as people write them from internal coordinates ``theta`` [..., P]."""
        positive = np.array([parameter.positive for parameter in self.parameters])
        with np.errstate(over="ignore"):
            return np.where(positive, np.exp(np.where(positive, theta, 0.0)), theta)

    def log_value(self, theta: Array, columns: Array) -> Array:
        """Log of the law [S, n] at ``columns`` [V, n]."""
        return self.evaluate(np.atleast_2d(theta), columns)[0]
