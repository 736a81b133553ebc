"""Program for ``test_export_on_ranks``: export the weights of an untrained run under each ZeRO stage.

exports.py FOLDER WORDS: WORDS is JSON, the configuration. At last rank 0 has no room to write.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from pathlib import Path

import torch
from torch.distributed import HashStore

from nepa_scale.config.overrides import parse
from nepa_scale.distributed import process_group
from nepa_scale.distributed.signals import StopRequest
from nepa_scale.distributed.watchdog import Watchdog
from nepa_scale.distributed.world import read_environment
from nepa_scale.placement.resolved import agree, resolve
from nepa_scale.training.runner import built_task
from nepa_scale.training.trainer import Trainer
from nepa_scale.utils.errors import RunError


def main(folder: Path, words: list[str]) -> None:
    """Write ``stageN.safetensors`` for each stage, then print the error of an export without room."""
    world = read_environment()
    device = process_group.initialise(world)
    stop = StopRequest()
    for stage in range(4):
        config = parse([*words, f"engine.ds_config=zero{stage}"])
        torch.manual_seed(config.seed)
        stage_dir = folder / str(stage)
        resolved = agree(resolve(config, stage_dir, world), stage_dir, world, device)
        trainer = Trainer(
            built_task(resolved, folder, world, device),
            resolved,
            folder,
            world=world,
            device=device,
            stop=stop,
            watchdog=Watchdog(world, folder, timeout_seconds=600, store=HashStore(), record=print),
        )
        trainer._export(f"stage{stage}.safetensors")
    if world.is_main:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
    try:
        trainer._export("full.safetensors")
    except RunError as error:
        print(error)
    process_group.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
