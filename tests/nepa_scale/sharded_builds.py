"""Program for ``test_sharded_init``: build tasks under ZeRO-3 on several ranks and write down what came of them.

sharded_builds.py FOLDER CASES: CASES is JSON, a list of configuration words for each case.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import deepspeed
import safetensors.torch
import torch
from nan_filled import NanFilled

from nepa_scale.config.overrides import parse
from nepa_scale.distributed import process_group
from nepa_scale.distributed.world import read_environment
from nepa_scale.engine import sharded_init
from nepa_scale.optim.optimizer import num_params
from nepa_scale.placement import ds_config
from nepa_scale.placement.devices import DeviceMemory
from nepa_scale.placement.planner import place
from nepa_scale.training.runner import build_task


def main(folder: Path, cases: list[list[str]]) -> None:
    """Build every case, with so little memory lent that almost every operation must gather."""
    sharded_init.SMALLEST_BYTES, sharded_init.WHOLE_BYTES = 64, 1024
    world = read_environment()
    device = process_group.initialise(world)
    for number, words in enumerate(cases):
        config = parse(words)
        placement = place(config, config.task, world.size, DeviceMemory(None, "not asked", on_gpu=False))
        settings = ds_config.resolve(config, config.task, placement)
        torch.manual_seed(config.seed)
        with NanFilled():
            task = sharded_init.build(
                lambda config=config: build_task(config, folder), settings, world=world, device=device
            )
        next_number = torch.rand(1).item()
        named = dict(task.module.named_parameters())
        partitioned = all(parameter.numel() == 0 for parameter in named.values())
        names = {id(parameter): name for name, parameter in named.items()}
        groups = [
            {**group, "params": [names[id(parameter)] for parameter in group["params"]]}
            for group in task.build_optimizer().param_groups
        ]
        found = {f"buffer:{name}": buffer.clone() for name, buffer in task.module.named_buffers()}
        for name, parameter in named.items():
            with deepspeed.zero.GatheredParameters([parameter]):
                found[name] = parameter.detach().clone()
        facts = {
            "partitioned": partitioned,
            "num_params": num_params(task.module),
            "next_number": next_number,
            "trained": [name for name, parameter in named.items() if parameter.requires_grad],
            "groups": groups,
        }
        safetensors.torch.save_file(found, folder / f"{number}-{world.rank}.safetensors")
        (folder / f"{number}-{world.rank}.json").write_text(json.dumps(facts))
    process_group.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
