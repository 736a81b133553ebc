"""Doing something anew whenever the files of a study have changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from nepa_scale.utils.cli import has_reader

LOOK_SECONDS = 2.0
SHARE = 0.2
"""Of the time that may go into rebuilding: a study that logs every second must not wait for its report."""
_READ = ("plan.json", "runs/*/*/status.json", "runs/*/*/result.json", "runs/*/*/metrics.jsonl")

Seen = dict[str, tuple[int, int]]


def watch(folders: Sequence[Path], rebuild: Callable[[], bool], look_seconds: float = LOOK_SECONDS) -> None:
    """Call ``rebuild`` at first and after every change, until it says that nothing is left to wait for, or Ctrl-C.

    It also ends when nobody reads its output any more.
    """
    try:
        while True:
            seen, started = fingerprint(folders), time.monotonic()
            if not rebuild():
                return
            took = time.monotonic() - started
            time.sleep(max(look_seconds, took * (1 / SHARE - 1)))
            while has_reader() and fingerprint(folders) == seen:
                time.sleep(look_seconds)
            if not has_reader():
                return
    except KeyboardInterrupt:
        return


def fingerprint(folders: Sequence[Path]) -> Seen:
    """Size and time of every file that a report reads."""
    found: Seen = {}
    for folder in folders:
        for path in (one for pattern in _READ for one in folder.glob(pattern)):
            try:
                status = path.stat()
            except OSError:  # replaced at this very moment
                continue
            found[str(path)] = (status.st_mtime_ns, status.st_size)
    return found
