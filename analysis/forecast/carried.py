"""Values that were carried along a curve rather than measured anew."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from analysis.laws.law import Array


def measured(y: Array) -> NDArray[np.bool_]:
    """Which of ``y`` [n], in order of x, are measurements of their own.

    A curve that never rises and repeats itself exactly is taken for an envelope, each value replaced by the largest
    that follows, which some published learning curves look like. Of a run of equal values only the last was then
    measured; all of them would claim a plateau, and a certainty, that nobody saw. A curve that rises anywhere is left
    as it is. A true plateau of exactly equal values cannot be told from an envelope and counts as one point, too.
    """
    steps = np.diff(y)
    own = np.ones(len(y), dtype=bool)
    if (steps <= 0).all():
        own[:-1] = steps < 0
    return own
