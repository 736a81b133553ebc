"""What a plan says of learning rates that follow the model's size."""

from __future__ import annotations

from collections.abc import Iterable

from nepa_scale.config import lr_scaling
from sweeps.plan.run_spec import RunSpec

MOST_LINES = 40


def learning_rates(points: Iterable[RunSpec]) -> list[str]:
    """A line for every pre-training whose peak rate comes from a rule, by the label of its run; not for thousands."""
    described = {point.label: lr_scaling.describe(point.config) for point in points if "pretrain" in point.tasks}
    lines = [f"learning rate of {label}: {rates}" for label, rates in described.items() if rates is not None]
    left = len(lines) - MOST_LINES
    return lines if left <= 0 else [*lines[:MOST_LINES], f"... and {left} more runs whose rates follow the rule"]
