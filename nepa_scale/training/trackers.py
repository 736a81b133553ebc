"""Experiment trackers beside ``metrics.jsonl``: ``log.trackers=[tensorboard,wandb]``.

The shipped ones are in ``tracker_kinds``; ``TRACKERS`` of ``nepa_scale.config.registry`` has all, those of plugins too.

A tracker's run lasts as long as its task: it keeps its id when the task is killed, requeued or resumed, and holds each
record once. Steps that are trained again after a kill are not sent again; their losses are the same anyway.
"""

from __future__ import annotations

import functools
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nepa_scale.config.registry import TRACKERS
from nepa_scale.config.schema import RunConfig, walk
from nepa_scale.utils.files import read_json
from nepa_scale.utils.progress import logger

Record = Mapping[str, Any]
#: Beside the result, what a tracker keeps of a finished task, from the task's folder.
ATTACHED = ("../config.yaml", "pictures.png")


@dataclass(frozen=True)
class TrackedTask:
    """What trackers show of the task in ``task_dir`` beside its records.

    ``records`` are those of ``metrics.jsonl`` up to where this process begins. The rest is read when a tracker asks.
    """

    task_dir: Path
    config: RunConfig
    records: Sequence[Record] = ()

    @property
    def name(self) -> str:
        """The name of the task's run in a tracker."""
        return f"{self.task_dir.parent.name} {self.config.task}"

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration, flat."""
        return {key: value for key, value, _ in walk(self.config)}

    @property
    def project(self) -> str:
        """The study that the task is part of, if it is."""
        return self._plan.get("study") or "nepa_scale"

    @property
    def tags(self) -> tuple[str, ...]:
        """Study, grid, size and seed, as far as there are."""
        plan = {name: self._plan.get(name) for name in ("study", "grid")}
        tags = plan | {"size": self.config.model.size, "seed": self.config.seed}
        return tuple(f"{name}={value}" for name, value in tags.items() if value is not None)

    @functools.cached_property
    def _plan(self) -> Mapping[str, Any]:
        path = self.task_dir.absolute().parent.parent.parent / "plan.json"
        return read_json(path) if path.is_file() else {}


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

    def attach(self, file: Path) -> None:  # noqa: B027  not every tracker keeps files
        """Keep a file of the finished task with its run."""

    def finish(self, result: Path | None) -> None:  # noqa: B027  not every tracker has something to close
        """Close the run, with the metrics of the task's ``result.json`` if it has one."""


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
        """Close all runs; those of a finished task get its ``result.json``, configuration and pictures."""
        files = [] if result is None else [result, *(result.parent / name for name in ATTACHED)]
        for file in filter(Path.is_file, files):
            for name, tracker in list(self._trackers.items()):
                self._guarded(name, functools.partial(tracker.attach, file))
        for name, tracker in list(self._trackers.items()):
            self._guarded(name, functools.partial(tracker.finish, result))

    def _open(self, name: str, task: TrackedTask) -> None:
        self._trackers[name] = pkgutil.resolve_name(TRACKERS[name])(task)

    def _guarded(self, name: str, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:  # whatever a tracker's package raises is no reason to end a training
            self._trackers.pop(name, None)
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            logger.warning("log.trackers: %s failed, training goes on without it: %s", name, first)
