"""The memory that the plan predicts for each device, beside what training takes.

python benchmarks/memory.py [sizes=small,base] [stages=0,1,2,3] [ranks=1,2,4] [micro_batch_sizes=4] [accumulation=1]
                            [checkpointing=false] [precision=fp32] [depth=null] [--json]

Pre-training steps on random 64-px images at patch 8, in real processes under DeepSpeed, of which the rank that takes
most is shown. ``measured`` is the most memory of a whole process (on GPUs: allocated by torch) and ``predicted`` the
plan's figure for it; ``above_base`` and ``predicted_above`` leave out what the process has before it builds a model.
``states`` and ``states_predicted`` are weights, optimiser and, at stage 3, gradients between two steps. All in MiB;
``ratio`` = predicted / measured.

glibc is told to give freed blocks back, so that a peak is one of memory in use.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from built_engine import built_engine
from command import read_settings, show

from nepa_scale.distributed.world import read_environment

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from nepa_scale.config import overrides  # noqa: E402  (after the path)
from nepa_scale.config.schema import RunConfig  # noqa: E402
from nepa_scale.distributed import process_group  # noqa: E402  (after the path)
from nepa_scale.distributed.process_group import max_over_ranks  # noqa: E402
from nepa_scale.distributed.world import World  # noqa: E402
from nepa_scale.engine.engine import Engine  # noqa: E402
from nepa_scale.models.build import build_backbone  # noqa: E402
from nepa_scale.perf.throughput import peak_memory_bytes  # noqa: E402
from nepa_scale.placement.devices import DeviceMemory, Placement  # noqa: E402
from nepa_scale.placement.planner import place  # noqa: E402
from nepa_scale.tasks.next_embedding import NextEmbedding  # noqa: E402

RESULT = "MEMORY_RESULT"  # where a rank of this file leaves its row
IMAGE_SIZE, STEPS = 64, 3
MIB = 2**20
DEFAULTS = {
    "sizes": "small,base",
    "stages": "0,1,2,3",
    "ranks": "1,2,4",
    "micro_batch_sizes": "4",
    "accumulation": "1",
    "checkpointing": "false",
    "precision": "fp32",
    "depth": "null",
}


def placed(settings: dict[str, str], world_size: int) -> tuple[RunConfig, Placement]:
    """The run of one cell of the table, and its placement."""
    micro = int(settings["micro_batch_sizes"])
    batch = micro * int(settings["accumulation"]) * world_size
    words = [
        f"model.size={settings['sizes']}",
        f"model.depth={settings['depth']}",
        f"pretrain.image_size={IMAGE_SIZE}",
        f"pretrain.batch_size={batch}",
        f"micro_batch_size={micro}",
        f"engine.precision={settings['precision']}",
        f"engine.activation_checkpointing={settings['checkpointing']}",
        f"engine.ds_config=zero{settings['stages']}",
    ]
    config = overrides.parse(words)
    device = DeviceMemory(None, "not asked", on_gpu=torch.cuda.is_available())
    return config, place(config, "pretrain", world_size, device)


def train(config: RunConfig, placement: Placement, world: World, device: torch.device) -> Engine:
    """Take a few steps as the training loop would; returns the engine as it is between two steps."""
    module = NextEmbedding(build_backbone(config.model.architecture(), IMAGE_SIZE), config.pretrain)
    module.backbone.set_grad_checkpointing(placement.activation_checkpointing)
    engine = built_engine(module, config, placement, world, device)
    shape = (placement.micro_batch_size, 3, IMAGE_SIZE, IMAGE_SIZE)
    for step in range(STEPS):
        batches = [(torch.randn(shape),) for _ in range(placement.accumulation)]
        engine.step(batches, step=step, before_forward=lambda _: None)
    return engine


def state_bytes(engine: Engine) -> int:
    """Bytes of this rank's weights and optimiser, each storage once, without what DeepSpeed only computes in."""
    kept = [getattr(parameter, "ds_tensor", parameter) for parameter in engine.module.parameters()]
    kept += engine.master_weights.shards()
    kept += [each for state in engine._optimizer.state.values() for each in state.values() if torch.is_tensor(each)]
    if engine.stage == 3:
        kept.append(engine._optimizer.grad_partitions_flat_buffer)
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
    return sum(storages.values())


def measure(settings: dict[str, str], world: World, device: torch.device) -> dict[str, Any]:
    """One row; every rank calls this."""
    config, placement = placed(settings, world.size)
    torch.randn(256, 256, device=device) @ torch.randn(256, 256, device=device)  # the libraries load what they need
    base = peak_memory_bytes()
    engine = train(config, placement, world, device)
    measured = max_over_ranks(peak_memory_bytes(), device)
    states = max_over_ranks(state_bytes(engine), device)
    base, estimate = max_over_ranks(base, device), placement.memory
    gradients = estimate.gradients if placement.zero_stage == 3 else 0
    predicted = estimate.total if device.type == "cpu" else estimate.total - estimate.process
    return {
        "size": settings["sizes"],
        "params_m": round(placement.num_params / 1e6, 1),
        "stage": placement.zero_stage,
        "ranks": world.size,
        "micro_batch_size": placement.micro_batch_size,
        "measured": round(measured / MIB),
        "predicted": round(predicted / MIB),
        "ratio": round(predicted / measured, 3),
        "above_base": round((measured - base) / MIB),
        "predicted_above": round((predicted - base) / MIB),
        "states": round(states / MIB, 1),
        "states_predicted": round((estimate.states + gradients) / MIB, 1),
    }


def worker(settings: dict[str, str], result: Path) -> None:
    """One rank of one process group."""
    world = read_environment()
    device = process_group.initialise(world)
    row = measure(settings, world, device)
    if world.is_main:
        result.write_text(json.dumps(row))
    process_group.leave()


def run_group(settings: dict[str, str], ranks: int) -> dict[str, Any]:
    """Start ``ranks`` processes of this file and return rank 0's row."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "row.json"
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "1",
            "MALLOC_MMAP_THRESHOLD_": "131072",
            "MALLOC_TRIM_THRESHOLD_": "131072",
            RESULT: str(result),
        }
        words = [f"{key}={value}" for key, value in settings.items()]
        subprocess.run([*launcher, __file__, *words], check=True, env=environment)
        row: dict[str, Any] = json.loads(result.read_text())
    return row


def cells(settings: dict[str, str]) -> list[tuple[dict[str, str], int]]:
    """Every combination of the listed settings, with its number of ranks."""
    return [
        (settings | {"sizes": size, "stages": stage, "micro_batch_sizes": micro}, int(ranks))
        for size in settings["sizes"].split(",")
        for ranks in settings["ranks"].split(",")
        for stage in settings["stages"].split(",")
        for micro in settings["micro_batch_sizes"].split(",")
    ]


def main() -> None:
    """Measure every cell and print the rows."""
    settings, as_json = read_settings(__doc__ or "", DEFAULTS)
    if RESULT in os.environ:
        worker(settings, Path(os.environ[RESULT]))
        return
    show([run_group(cell, ranks) for cell, ranks in cells(settings)], as_json=as_json)


if __name__ == "__main__":
    main()
