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

from nepa_scale.errors import RunError
from nepa_scale.loop import Trainer
from nepa_scale.overrides import parse
from nepa_scale.placing.placement import agree
from nepa_scale.processes import distributed
from nepa_scale.processes.signals import StopRequest
from nepa_scale.safety.watchdog import Watchdog
from nepa_scale.session import built_task


def main(folder: Path, words: list[str]) -> None:
    """Write ``stageN.safetensors`` for each stage, then print the error of an export without room."""
    world = distributed.read_environment()
    device = distributed.initialise(world)
    stop = StopRequest()
    for stage in range(4):
        config = parse([*words, f"engine.ds_config=zero{stage}"])
        torch.manual_seed(config.seed)
        placement = agree(config, folder / str(stage), world, device)
        trainer = Trainer(
            built_task(config, folder, placement, world, device),
            config,
            folder,
            placement=placement,
            world=world,
            device=device,
            stop=stop,
            watchdog=Watchdog(world, folder, timeout_seconds=600, store=None, record=print),
        )
        trainer._export(f"stage{stage}.safetensors")
    if world.is_main:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
    try:
        trainer._export("full.safetensors")
    except RunError as error:
        print(error)
    distributed.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
