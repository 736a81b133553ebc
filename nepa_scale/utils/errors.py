"""Errors a user can cause and mend. Commands print their text as it is, without a traceback, and exit with code 2."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NAMES_SHOWN = 5


class UserError(Exception):
    """A mistake outside the program: the message names what is wrong and what would be right."""


class ConfigError(UserError):
    """One or more settings are wrong; every problem found is listed, one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class RankError(ConfigError):
    """A setting of one process alone, which the other processes of its machine cannot tell of."""


class DataError(UserError):
    """A data set is missing, incomplete or not in a known layout."""


class DataLostError(DataError):
    """Training data that was there at the start cannot be read any more, or too much of it is bad."""


class DivergedError(UserError):
    """Losses or gradients are not finite any more, step after step."""


class MilestoneError(UserError):
    """A task has missed an early stopping criterion."""


class RunError(UserError):
    """A run directory cannot be used: owned by another process, or made by another configuration."""


class SaveError(RunError):
    """Too many checkpoints in a row could not be written; every rank of a training raises it at once."""


class WeightsError(UserError):
    """A file or folder of weights is incomplete, unsafe, or of another model."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest valid name, or ``""`` when none is close."""
    matches = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f"; did you mean '{matches[0]}'?" if matches else ""


def shortened(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The keys in which settings differ, with both values; empty where they are the same."""
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return shortened(f"{key} ({old.get(key)} there, {new.get(key)} now)" for key in differing)


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, or the name of its type if it says nothing."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


_PHRASES = (
    "out of memory",  # CUDA, whichever class torch gives it
    "can't allocate memory",  # torch's CPU allocator
    "not enough memory",
    "cannot allocate memory",
    "std::bad_alloc",
    "failed to allocate",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that this machine's or its GPU's memory did not suffice."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(phrase in text for phrase in _PHRASES)


def failure_reason(error: str | None) -> str | None:
    """The kind of failure that an error text begins with, one of ``REASONS``; None where it is of no known kind."""
    return next((reason for reason in REASONS if f"{error}: ".startswith(f"{reason}: ")), None)


#: The error of a failed task is one of these, or begins with one and a colon, where it is of a known kind.
REASONS = ("oom", "timeout", "data", "diverged", "collapsed", "milestone", "node failed", "cancelled", "lost")
