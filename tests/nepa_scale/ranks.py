"""Python programs beside the tests, run on several ranks of one process group."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from launching import REPOSITORY, clean_environment, free_port
from warm import WarmChild

HERE = Path(__file__).resolve().parent
TIMEOUT_SECONDS = 400


def run_on_ranks(program: str, words: Sequence[str], *, world_size: int) -> list[str]:
    """Run ``program``, a file of this folder, on every rank; what each printed, or fails with it on an error."""
    port = str(free_port())
    processes = [
        WarmChild(
            [sys.executable, str(HERE / program), *words],
            env=clean_environment(
                PYTHONPATH=str(REPOSITORY),
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(world_size),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]
    with ThreadPoolExecutor(world_size) as readers:
        outputs = list(readers.map(lambda process: process.communicate(timeout=TIMEOUT_SECONDS)[0], processes))
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return outputs
