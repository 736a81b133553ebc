"""One run of a grid before it is priced."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nepa_scale.config.schema import RunConfig

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class RunSpec:
    """One run of a grid before it is priced: ``values`` are its settings of what varies, ``label`` its short name."""

    config: RunConfig
    label: str
    values: dict[str, Any]
    tasks: tuple[str, ...]
    tuned: dict[str, Any] = field(default_factory=dict)
    """The values that its tasks are tried at; of runs that differ in these alone the analysis chooses."""
    pretrained_by: str | None = None
    """The run whose pre-training this one uses instead of an equal one of its own."""
    branched_from: str | None = None
    """The longer run in whose pre-training this one's begins."""
