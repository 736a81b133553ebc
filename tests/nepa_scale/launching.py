"""Starting real training processes from tests."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from warm import WarmChild

from nepa_scale.distributed.world import without_launcher

REPOSITORY = Path(__file__).resolve().parents[2]
TRAIN = str(REPOSITORY / "nepa_scale" / "train.py")
TIMEOUT_SECONDS = 240
#: A shape for trainings in bf16, whose matrix products take most CPUs twenty times as long as those in fp32.
NARROW = ("model.embed_dim=8", "model.depth=2", "model.num_heads=1")


def clean_environment(**variables: str) -> dict[str, str]:
    """This process's environment without a launcher's variables, one thread per process."""
    alone = without_launcher(os.environ)
    kept = {name: value for name, value in alone.items() if name not in ("MASTER_ADDR", "MASTER_PORT")}
    return {**kept, "OMP_NUM_THREADS": "1", **variables}


def start(words: Sequence[str], *, rank: int = 0, world_size: int = 1, port: int = 0) -> subprocess.Popen[str]:
    """Start one training process; with ``world_size`` > 1 it is rank ``rank`` of a group at ``port``."""
    variables = {}
    if world_size > 1:
        variables = {
            "RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    return WarmChild(
        [sys.executable, TRAIN, *words],
        env=clean_environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train(words: Sequence[str], *, world_size: int = 1) -> str:
    """Run a training to its end on ``world_size`` ranks; returns what rank 0 printed, fails with it on an error."""
    port = free_port()
    processes = [start(words, rank=rank, world_size=world_size, port=port) for rank in range(world_size)]
    # All at once: a rank whose output nobody reads stops at 64 kB, and the others wait for it.
    with ThreadPoolExecutor(world_size) as readers:
        outputs = list(readers.map(lambda process: process.communicate(timeout=TIMEOUT_SECONDS)[0], processes))
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return outputs[0]


def rows(task_dir: Path) -> list[dict[str, Any]]:
    """The lines of a task's metrics file."""
    return [json.loads(line) for line in (task_dir / "metrics.jsonl").read_text().splitlines()]


def losses(task_dir: Path) -> list[float]:
    """The training loss of each logged step, in the file's order."""
    return [row["loss"] for row in rows(task_dir) if "loss" in row]


def wait_for_step(task_dir: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Return once ``step`` is in the metrics file."""
    for _ in range(2400):
        if (task_dir / "metrics.jsonl").is_file() and len(losses_so_far(task_dir)) >= step:
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    raise AssertionError(f"step {step} did not come")


def losses_so_far(task_dir: Path) -> list[str]:
    """The whole lines written until now."""
    return (task_dir / "metrics.jsonl").read_text().split("\n")[:-1]


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
