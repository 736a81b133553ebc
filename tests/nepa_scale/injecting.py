"""Real training processes with a fault put into them: code that runs in the process before the command does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from children import Child
from launching import REPOSITORY, TIMEOUT_SECONDS, TRAIN, clean_environment, free_port
from warm import WarmChild

_COMMAND = """
import os, runpy, sys
sys.argv = [{train!r}, *sys.argv[1:]]
{fault}
runpy.run_path({train!r}, run_name="__main__")
"""

#: Calls ``fault(step)`` on the rank and before the step that ``FAULT_RANK`` and ``FAULT_STEP`` name.
BEFORE_STEP = """
from nepa_scale.training import trainer as loop

seed = loop.Trainer._seed

def with_fault(self, step, micro_step):
    seed(self, step, micro_step)
    if self.world.rank == int(os.environ["FAULT_RANK"]) and step == int(os.environ["FAULT_STEP"]):
        fault(step)

loop.Trainer._seed = with_fault
"""


class Ended(NamedTuple):
    """How a process ended and what it printed."""

    code: int
    output: str


def start_with(
    fault: str, words: Sequence[str], *, kind: type[Child] = WarmChild, **variables: str
) -> subprocess.Popen[str]:
    """Start the training command in a process that has run ``fault`` before; its output has both streams.

    ``kind=Child`` starts a new process, for a fault that is to come before imports."""
    code = _COMMAND.format(train=TRAIN, fault=fault)
    return kind(
        [sys.executable, "-c", code, *words],
        env=clean_environment(PYTHONPATH=str(REPOSITORY), **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_ranks(
    fault: str, words: Sequence[str], world_size: int, *, port: int = 0, kind: type[Child] = WarmChild, **variables: str
) -> list[subprocess.Popen[str]]:
    """All ranks of a job on this machine, as a launcher would start them."""
    port = port or free_port()
    return [
        start_with(
            fault,
            words,
            kind=kind,
            RANK=str(rank),
            WORLD_SIZE=str(world_size),
            LOCAL_RANK=str(rank),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            **variables,
        )
        for rank in range(world_size)
    ]


def ends(processes: Sequence[subprocess.Popen[str]], timeout: float = TIMEOUT_SECONDS) -> list[Ended]:
    """Wait for all processes; one that outstays the timeout is killed and fails the test."""
    try:
        with ThreadPoolExecutor(len(processes)) as readers:
            outputs = list(readers.map(lambda process: process.communicate(timeout=timeout)[0], processes))
    finally:
        for process in processes:
            process.kill()
    return [Ended(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]
