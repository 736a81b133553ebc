"""The functional forms of an error ``y`` along a model size N or a compute budget C, ``x``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class PowerLaw:
    """``y = a * x^-b`` (Kaplan et al. 2020, arXiv:2001.08361, eq. 1.1): a straight line in log-log."""

    a: float
    b: float

    def __call__(self, x: ArrayLike) -> NDArray[np.float64]:
        """Evaluate the law at ``x`` [...] > 0; the same shape comes back."""
        return self.a * np.asarray(x, dtype=float) ** -self.b


@dataclass(frozen=True)
class OffsetPowerLaw:
    """``y = e + a * x^-b`` (Henighan et al. 2020, arXiv:2010.14701, eq. 1.1): it levels off at ``e``."""

    e: float
    a: float
    b: float

    def __call__(self, x: ArrayLike) -> NDArray[np.float64]:
        """Evaluate the law at ``x`` [...] > 0; the same shape comes back."""
        return self.e + self.a * np.asarray(x, dtype=float) ** -self.b
