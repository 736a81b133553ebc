"""Heartbeats: each rank publishes its progress in the job's store; find the ranks that are behind or dead."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nepa_scale.utils.errors import shortened

if TYPE_CHECKING:
    from torch.distributed import Store

    from nepa_scale.distributed.world import World

_SEPARATOR = "\x1f"
_COMMUNICATION = ("/torch/distributed/", "/deepspeed/comm/")


@dataclass(frozen=True)
class Progress:
    """A rank's host, how often it has reported, the steps it has done, and what it does now.

    ``waiting``: whether its training thread is inside a collective, so that this rank does not hold up the rest.
    """

    host: str
    passed: int = 0
    step: int = 0
    doing: str = "starting"
    waiting: bool = False


class Heartbeats:
    """The progress of all ranks. Methods raise ``RuntimeError`` when the store is gone, and rank 0 with it."""

    def __init__(self, store: Store, world: World) -> None:
        self._store, self._world = store, world
        self._beats = 0
        self._seen: dict[int, tuple[str, float]] = {}  # by rank: its last message, and since when

    def publish(self, progress: Progress) -> None:
        """Show the others that this rank lives, and its progress."""
        self._beats += 1
        numbers = str(progress.passed), str(progress.step)
        fields = progress.host, *numbers, progress.doing, str(int(progress.waiting)), str(self._beats)
        self._store.set(_key(self._world.rank), _SEPARATOR.join(fields))

    def all(self) -> dict[int, Progress]:
        """The progress of every rank; empty until all have published."""
        return {rank: _parsed(text) for rank, text in self._read().items()}

    def restart_clocks(self) -> None:
        """Count the silence of the others from now on: this process was suspended and did not look."""
        self._seen.clear()

    def silent(self, seconds: float) -> list[int]:
        """The ranks from which this process has seen nothing new for so long."""
        now, texts = time.monotonic(), self._read()
        for rank, text in texts.items():
            if self._seen.get(rank, ("", 0.0))[0] != text:
                self._seen[rank] = (text, now)
        return [rank for rank in texts if now - self._seen[rank][1] > seconds]

    def _read(self) -> dict[int, str]:
        keys = [_key(rank) for rank in range(self._world.size)]
        texts = self._store.multi_get(keys) if self._store.check(keys) else []
        return {rank: text.decode() for rank, text in enumerate(texts)}


def behind(everyone: dict[int, Progress]) -> list[int]:
    """The ranks that reported least often and, of them, those that wait for no others; all if they are equal."""
    least = min((progress.passed, progress.waiting) for progress in everyone.values())
    return [rank for rank, progress in everyone.items() if (progress.passed, progress.waiting) == least]


def who_hangs(everyone: dict[int, Progress]) -> str:
    """A sentence on which ranks are behind and what they and the others do."""
    late = behind(everyone)
    first = everyone[late[0]]
    if len(late) == len(everyone):
        return f"all {len(everyone)} ranks are at '{first.doing}'"
    other = everyone[next(rank for rank in everyone if rank not in late)]
    ranks = shortened(f"{rank} on {everyone[rank].host}" for rank in late)
    return f"rank {ranks} is at '{first.doing}', the others wait for it at '{other.doing}'"


def in_collective(thread: int) -> bool:
    """Whether the thread with this identity is inside a call of torch's or DeepSpeed's communication."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        if any(part in frame.f_code.co_filename for part in _COMMUNICATION):
            return True
        frame = frame.f_back
    return False


def _key(rank: int) -> str:
    return f"progress/{rank}"


def _parsed(text: str) -> Progress:
    host, passed, step, doing, waiting, _ = text.split(_SEPARATOR)
    return Progress(host, int(passed), int(step), doing, bool(int(waiting)))
