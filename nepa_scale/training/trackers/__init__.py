"""Experiment trackers beside ``metrics.jsonl``: ``log.trackers=[tensorboard,wandb]``. One file each.

A tracker's run lasts as long as its task: it keeps its id when the task is killed, requeued or resumed, and holds each
record once. Steps that are trained again after a kill are not sent again; their losses are the same anyway.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nepa_scale.utils.progress import logger

Record = Mapping[str, Any]

#: Of each tracker: the package it needs, and its class here.
TRACKERS = {
    "tensorboard": ("tensorboard", "nepa_scale.training.trackers.tensorboard:TensorBoard"),
    "wandb": ("wandb", "nepa_scale.training.trackers.wandb:WeightsAndBiases"),
    "trackio": ("trackio", "nepa_scale.training.trackers.trackio:Trackio"),
    "mlflow": ("mlflow", "nepa_scale.training.trackers.mlflow:MLflow"),
}


@dataclass(frozen=True)
class TrackedTask:
    """What trackers show of a task beside its records.

    ``records`` are those of ``metrics.jsonl`` up to where this process begins.
    """

    task_dir: Path
    name: str
    project: str
    tags: tuple[str, ...]
    config: Mapping[str, Any]
    records: Sequence[Record] = ()


class Tracker(ABC):
    """The run of one task in one tracker.

    Attributes:
        stored: how many records of the task it holds from earlier processes; those are not sent again.
    """

    stored: int = 0

    @abstractmethod
    def __init__(self, task: TrackedTask) -> None:
        """Begin the task's run, or find it again."""

    @abstractmethod
    def log(self, record: Record) -> None:
        """Send one record; it has a ``step``."""

    def holds(self, index: int, record: Record) -> bool:
        """Whether the task's record number ``index`` was sent by an earlier process and is stored."""
        return index < self.stored

    def finish(self, result: Path | None) -> None:  # noqa: B027  not every tracker has something to close
        """Close the run, with the task's ``result.json`` if it has one."""


class Trackers:
    """All trackers of a task. One that fails is left out from then on, with one line in the log; training goes on."""

    def __init__(self, names: Sequence[str], task: TrackedTask) -> None:
        self._trackers: dict[str, Tracker] = {}
        self._count = 0
        for name in names:
            self._guarded(name, functools.partial(self._open, name, task))
        for record in task.records:
            self.log(record)

    def log(self, record: Record) -> None:
        """Send the next record of ``metrics.jsonl`` to each tracker that does not hold it yet."""
        for name, tracker in list(self._trackers.items()):
            if not tracker.holds(self._count, record):
                self._guarded(name, functools.partial(tracker.log, record))
        self._count += 1

    def finish(self, result: Path | None) -> None:
        """Close all runs, with the task's ``result.json`` if it has one."""
        for name, tracker in list(self._trackers.items()):
            self._guarded(name, functools.partial(tracker.finish, result))

    def _open(self, name: str, task: TrackedTask) -> None:
        module, _, attribute = TRACKERS[name][1].partition(":")
        self._trackers[name] = getattr(importlib.import_module(module), attribute)(task)

    def _guarded(self, name: str, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:  # whatever a tracker's package raises is no reason to end a training
            self._trackers.pop(name, None)
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            logger.warning("log.trackers: %s failed, training goes on without it: %s", name, first)


def missing_packages(names: Sequence[str]) -> list[str]:
    """A problem for each tracker whose package is not installed."""
    return [
        f"log.trackers: {name} is not installed here; pip install 'nepa-scale[{name}]'"
        for name in names
        if name in TRACKERS and importlib.util.find_spec(TRACKERS[name][0]) is None
    ]
