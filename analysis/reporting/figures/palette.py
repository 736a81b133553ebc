"""Which colour and dashes a label has: those of its size, the same in every figure of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.findings.series import label_order, scales_sizes, size_of, size_order
from analysis.reporting.figures import drawing
from analysis.study.records import Study

MAX_GROUPS = 12
"""More lines than these nobody can follow, and a legend of more hides the figure."""


@dataclass(frozen=True)
class Palette:
    """The looks of a study's labels and of their groups: their sizes, or the labels where no size is scaled."""

    group_of: Mapping[str, str]
    groups: Sequence[str]
    """In order, from the smallest size."""
    colours: Mapping[str, Any]
    """By group."""
    dashes: Mapping[str, Any]
    """By label and by group: a size's own, or where labels share a size one for each of these."""

    def colour(self, label: str) -> Any:
        """The colour of ``label``: its size's."""
        return self.colours[self.group_of[label]]


def palette(study: Study) -> Palette:
    """Give every label of ``study`` the look of its size."""
    labels = label_order(study)
    own = not scales_sizes(study)
    group_of = {label: label for label in labels} if own else size_of(study)
    groups = labels if own else size_order(study)
    return Palette(group_of, groups, drawing.size_colours(groups), _dashes(group_of, groups))


def _dashes(group_of: Mapping[str, str], groups: Sequence[str]) -> dict[str, Any]:
    found = drawing.size_dashes(groups)
    if len(group_of) <= len(groups):
        return found | {label: found[group] for label, group in group_of.items()}
    for group in groups:
        found |= drawing.size_dashes([label for label, own in group_of.items() if own == group])
    return found


def readable(groups: Sequence[str], most: int = MAX_GROUPS) -> list[str]:
    """At most ``most`` of ``groups``, evenly spread with both ends."""
    if len(groups) <= most:
        return list(groups)
    step = (len(groups) - 1) / (most - 1)
    return [groups[round(i * step)] for i in range(most)]
