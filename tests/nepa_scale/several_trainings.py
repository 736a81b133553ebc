"""Many trainings, one after another, in the same processes: what a test of many cases would spend on imports."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE, STDOUT

from launching import REPOSITORY, clean_environment, free_port
from warm import WarmChild

from nepa_scale.distributed.world import read_environment

TIMEOUT_SECONDS = 900


def train_all(commands: Sequence[Sequence[str]], *, world_size: int = 1) -> str:
    """Do the trainings that ``commands`` name on ``world_size`` ranks; returns what rank 0 printed."""
    port = str(free_port())
    processes = [
        WarmChild(
            [sys.executable, __file__, json.dumps([list(words) for words in commands])],
            env=clean_environment(
                PYTHONPATH=str(REPOSITORY),
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(world_size),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
            ),
            stdout=PIPE,
            stderr=STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]
    with ThreadPoolExecutor(world_size) as readers:
        outputs = list(readers.map(lambda process: process.communicate(timeout=TIMEOUT_SECONDS)[0], processes))
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return outputs[0]


def main(commands: list[list[str]]) -> None:
    """One rank's part of all trainings."""
    from nepa_scale.config import overrides
    from nepa_scale.distributed import process_group
    from nepa_scale.distributed.signals import StopRequest
    from nepa_scale.distributed.watchdog import Watchdog
    from nepa_scale.placement.resolved import resolve
    from nepa_scale.run_dir import run_folder
    from nepa_scale.training import runner
    from nepa_scale.utils import progress

    world, stop = read_environment(), StopRequest()
    device = process_group.initialise(world)
    import torch

    torch.set_num_threads(1)
    for words in commands:
        config = overrides.parse(words)
        run_dir = run_folder.run_directory(config)
        task_dir = run_dir / config.task
        task_dir.mkdir(parents=True, exist_ok=True)
        if world.is_main:
            progress.start_logging(task_dir)
        store = torch.distributed.HashStore()
        watchdog = Watchdog(world, task_dir, timeout_seconds=600, store=store, record=lambda _: None)
        runner._run(resolve(config, task_dir, world), run_dir, world, device, stop, watchdog)
        process_group.barrier()
        progress.logger.handlers.clear()
    process_group.leave()


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    main(json.loads(sys.argv[1]))
