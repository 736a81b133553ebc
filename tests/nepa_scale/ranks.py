"""Python code on several ranks of one process group."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from launching import REPOSITORY, TIMEOUT_SECONDS, clean_environment, free_port

HERE = Path(__file__).resolve().parent


def run_ranks(code: str, *words: str, world_size: int) -> list[str]:
    """Run ``code`` with ``words`` as its arguments on every rank, to its end; returns what each rank printed."""
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, *words],
            env=clean_environment(
                PYTHONPATH=f"{REPOSITORY}:{HERE}",
                RANK=str(rank),
                WORLD_SIZE=str(world_size),
                LOCAL_RANK=str(rank),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(port),
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]
    outputs = [process.communicate(timeout=TIMEOUT_SECONDS)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return outputs
