"""How a training process says, by its exit code, how it ended. Every rank of a job leaves with the same code."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The codes of ``nepa_scale/train.py``; 130 is a second Ctrl-C."""

    DONE = 0
    """finished, or stopped on request with everything saved"""
    FAILURE = 1
    """an error of the program or of the machine"""
    USER_ERROR = 2
    """a user's mistake, told in one line"""
    DATA_LOST = 3
    """the data cannot be read any more; what was trained is saved"""
    TIMEOUT = 4
    """no progress for ``engine.timeout_minutes``: a rank hangs, or is gone"""
    OUT_OF_MEMORY = 5
    """memory ran out; the message tells what would need less"""
    DIVERGED = 6
    """training left the finite numbers, or collapsed where that was to end it"""
    MILESTONE = 7
    """a measure that was to be reached by a stated step was not"""
