"""What is not independent: labels whose runs rest on something in common."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd
from scipy.cluster.hierarchy import DisjointSet

LABEL, OWN = "label", "what it rests on"


def joined(rests_on: Mapping[str, Collection[str]] | pd.Series[Any]) -> pd.Series[int]:
    """{label: the number of its group}: labels that have any of what they rest on in common, be it through others, are
    of one group."""
    groups: DisjointSet[tuple[str, str]] = DisjointSet([(LABEL, str(label)) for label, _ in rests_on.items()])
    for label, own in rests_on.items():
        for name in own:
            groups.add((OWN, name))
            groups.merge((LABEL, str(label)), (OWN, name))
    numbers = {name: i for i, group in enumerate(groups.subsets()) for kind, name in group if kind == LABEL}
    labels = [str(label) for label, _ in rests_on.items()]
    return pd.Series([numbers[label] for label in labels], index=labels, dtype="int64")
