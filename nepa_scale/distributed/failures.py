"""The first failure of a job, shared with every rank, which by itself would only see "connection closed".

A rank that fails writes what happened into the job's store, where only the first to do so succeeds; the others find it
there within a second (``watchdog.py``). Rank 0 records it for all. Nobody leaves before that is done, so that a
launcher that kills the rest at the first exit hides nothing.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from nepa_scale.utils.errors import (
    DataLostError,
    DivergedError,
    MilestoneError,
    UserError,
    failure_reason,
    is_out_of_memory,
)

if TYPE_CHECKING:
    from torch.distributed import Store

    from nepa_scale.distributed.world import World
from enum import IntEnum

POLL_SECONDS = 0.1
LEAVING_SECONDS = 5.0
_FAILURE, _RECORDED, _KNOWN = "failure", "recorded", "known"
_LOST_CONTACT = ("connection closed", "connection reset", "broken pipe", "connection refused", "remote process exited")


class ExitCode(IntEnum):
    """The codes of ``nepa_scale/train.py``; 130 is a second Ctrl-C."""

    DONE = 0
    """finished, or stopped on request with everything saved"""
    FAILURE = 1
    """an error of the program or of the machine"""
    USER_ERROR = 2
    """a user's mistake, reported in one line"""
    DATA_LOST = 3
    """the data cannot be read any more; what was trained is saved"""
    TIMEOUT = 4
    """no progress for ``engine.timeout_minutes``: a rank hangs, or is gone"""
    OUT_OF_MEMORY = 5
    """memory ran out; the message says what would need less"""
    DIVERGED = 6
    """training left the finite numbers, or collapsed where that was to end it"""
    MILESTONE = 7
    """an early stopping criterion was not met"""


@dataclass(frozen=True)
class Failure:
    """The failure that ended a job: on which rank and host, after how many steps, why, and the exit code for all."""

    rank: int
    host: str
    step: int
    message: str
    code: int

    def described(self, world: World) -> str:
        """One line or more for people; in a job of several ranks it says which it was."""
        if world.size == 1:
            return self.message
        first, *rest = self.message.split("\n", 1)
        kind = failure_reason(first)
        what = first.removeprefix(f"{kind}: ") if kind else first
        where = f"rank {self.rank} on {self.host}, after step {self.step}: {what}"
        return "\n".join([f"{kind}: {where}" if kind else where, *rest])


class JobFailedError(Exception):
    """The job's first failure, already recorded and printed; the command exits with its code."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.message)


def exit_code(error: BaseException) -> ExitCode:
    """The code with which a process leaves because of ``error``."""
    if isinstance(error, DataLostError):
        return ExitCode.DATA_LOST
    if isinstance(error, DivergedError):
        return ExitCode.DIVERGED
    if isinstance(error, MilestoneError):
        return ExitCode.MILESTONE
    if isinstance(error, UserError):
        return ExitCode.USER_ERROR
    return ExitCode.OUT_OF_MEMORY if is_out_of_memory(error) else ExitCode.FAILURE


def lost_contact(error: BaseException) -> bool:
    """Whether ``error`` only says that another rank is gone, which then has the real reason."""
    text = str(error).lower()
    return isinstance(error, RuntimeError | OSError) and any(phrase in text for phrase in _LOST_CONTACT)


class FailureStore:
    """The failure in the job's store. Methods raise ``RuntimeError`` when the store is gone, and rank 0 with it."""

    def __init__(self, store: Store, world: World) -> None:
        self._store, self._world = store, world
        store.set_timeout(timedelta(seconds=LEAVING_SECONDS))

    def put_first(self, failure: Failure) -> Failure:
        """Make ``failure`` the job's, unless there is one already; returns the job's."""
        return _parsed(self._store.compare_set(_FAILURE, "", json.dumps(dataclasses.asdict(failure))))

    def get(self) -> Failure | None:
        """The job's failure, if there is one."""
        return _parsed(self._store.get(_FAILURE)) if self._store.check([_FAILURE]) else None

    def leave_together(self, record: Callable[[], None]) -> None:
        """Leave together: rank 0 calls ``record`` and waits until all know; others wait for it, or record it."""
        if self._world.is_main:
            record()
            self._store.set(_RECORDED, "1")
            _wait_until(lambda: self._store.add(_KNOWN, 0) >= self._world.size - 1)
        else:
            self._store.add(_KNOWN, 1)
            if not _wait_until(self._is_recorded):
                record()

    def _is_recorded(self) -> bool:
        try:
            return self._store.check([_RECORDED])
        except RuntimeError:  # rank 0 has left, which it does after recording
            return True


def _parsed(text: bytes) -> Failure:
    return Failure(**json.loads(text))


def _wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + LEAVING_SECONDS
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return met
