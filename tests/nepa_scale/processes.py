"""Python code, and the training command, in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from children import Child
from launching import REPOSITORY, clean_environment

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@contextmanager
def running(code: str, *words: str, kind: type[Child] = Child) -> Iterator[subprocess.Popen[str]]:
    """Run Python code that can import the project, with pipes for input and output; leaving ends it."""
    with kind(
        [sys.executable, "-c", code, *words],
        env=clean_environment(PYTHONPATH=str(REPOSITORY)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


def next_line(process: subprocess.Popen[str]) -> str:
    """The next line the process writes; empty when it has ended."""
    assert process.stdout is not None
    return process.stdout.readline().strip()
