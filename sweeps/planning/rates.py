"""What a plan says of learning rates that follow the model's size."""

from __future__ import annotations

from collections.abc import Iterable

from nepa_scale import lr_rules
from sweeps.planning.point import Point


def learning_rates(points: Iterable[Point]) -> list[str]:
    """A line for every pre-training whose peak rate comes from a rule, by the label of its run."""
    described = {point.label: lr_rules.describe(point.config) for point in points if "pretrain" in point.tasks}
    return [f"learning rate of {label}: {rates}" for label, rates in described.items() if rates is not None]
