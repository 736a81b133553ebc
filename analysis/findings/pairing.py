"""What is not independent: labels whose runs rest on something in common."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd


def joined(rests_on: Mapping[str, Collection[str]] | pd.Series[Any]) -> pd.Series[int]:
    """{label: the number of its group}: labels that have any of what they rest on in common, be it through others, are
    of one group."""
    groups: list[tuple[list[str], set[str]]] = []
    for label, own in rests_on.items():
        touched = [group for group in groups if group[1].intersection(own)]
        members = [str(label), *(member for group in touched for member in group[0])]
        groups = [group for group in groups if group not in touched]
        groups.append((members, set(own).union(*(group[1] for group in touched))))
    numbers = {label: i for i, (members, _) in enumerate(groups) for label in members}
    labels = [str(label) for label, _ in rests_on.items()]
    return pd.Series([numbers[label] for label in labels], index=labels, dtype="int64")
