"""Validation images for a set that has none: a part of its training images, balanced over classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def held_out(labels: Sequence[int], fraction: float) -> set[int]:
    """Choose the images to validate with, by their index.

    Of every class the nearest whole number to ``fraction`` of its images is chosen, at least one and never all; a class
    of one image keeps it. The choice depends on the labels alone, and a larger fraction includes a smaller one's.
    """
    classes = np.asarray(labels, dtype=np.int64)
    chosen: set[int] = set()
    for label in np.unique(classes).tolist():
        members = np.flatnonzero(classes == label)
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        mixed = np.random.default_rng([0, label]).permutation(members)
        chosen.update(mixed[:count].tolist())
    return chosen
