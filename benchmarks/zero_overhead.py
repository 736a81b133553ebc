"""What DeepSpeed costs beside bare PyTorch with the same model, at every ZeRO stage, on one and on two ranks.

python benchmarks/zero_overhead.py [size=tiny] [micro_batch_sizes=4,32] [stages=0,1,2,3] [ranks=1,2] [rounds=15]
                                   [--json]

Pre-training steps in fp32 on random 64-px images at patch 8. The engine and the bare loop (the same module, fused
AdamW, clipping by the norm) take one step each in turn in the same process; a figure is the median over rounds, a
ratio the median of the rounds' ratios.

- one rank, with all cores: ``slower`` is the engine's step time over the bare loop's, less 1
- two ranks with half the cores each: ``of_one_process`` is their images per second over those of one bare process
  that has all the cores and the whole batch
"""

from __future__ import annotations

import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from built_engine import built_engine
from command import read_settings, show

from nepa_scale.distributed.world import read_environment

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from nepa_scale.config import overrides  # noqa: E402  (after the path)
from nepa_scale.distributed import process_group  # noqa: E402  (after the path)
from nepa_scale.distributed.world import World  # noqa: E402
from nepa_scale.models.build import build_backbone  # noqa: E402
from nepa_scale.optim.optimizer import build_optimizer  # noqa: E402
from nepa_scale.placement.devices import DeviceMemory  # noqa: E402
from nepa_scale.placement.planner import place  # noqa: E402
from nepa_scale.tasks.next_embedding import NextEmbedding  # noqa: E402

RESULT = "ZERO_OVERHEAD_RESULT"  # where a rank of this file leaves its rows
IMAGE_SIZE, WARM_UP_ROUNDS = 64, 3
DEFAULTS = {"size": "tiny", "micro_batch_sizes": "4,32", "stages": "0,1,2,3", "ranks": "1,2", "rounds": "15"}


def module_of(size: str) -> tuple[Any, NextEmbedding]:
    """The settings of a pre-training of ``size``, and its module."""
    words = ["task=pretrain", f"model.size={size}", f"pretrain.image_size={IMAGE_SIZE}", "pretrain.warmup=0"]
    config = overrides.parse([*words, "engine.activation_checkpointing=false"])
    return config, NextEmbedding(build_backbone(config.model.architecture(), IMAGE_SIZE), config.pretrain)


def bare_step(module: NextEmbedding, images: torch.Tensor) -> Callable[[], None]:
    """A training step as one would write it without DeepSpeed."""
    config, _ = module_of("femto")
    optimizer = build_optimizer(module, config.pretrain)

    def step() -> None:
        module(images).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def engine_step(size: str, module: NextEmbedding, stage: int, images: torch.Tensor, world: World) -> Callable[[], None]:
    """A step of this project's engine."""
    config, _ = module_of(size)
    config.engine.ds_config, config.pretrain.batch_size = f"zero{stage}", len(images) * world.size
    config.micro_batch_size = len(images)
    placement = place(config, "pretrain", world.size, DeviceMemory(None, "not asked", on_gpu=False))
    engine = built_engine(module, config, placement, world, torch.device("cpu"))
    return lambda: engine.step([(images,)], step=0, before_forward=lambda _: None) and None


def seconds(step: Callable[[], None]) -> float:
    """Wall time of one step on this rank, begun together."""
    process_group.barrier()
    before = time.perf_counter()
    step()
    return time.perf_counter() - before


def measure(size: str, micro_batch_size: int, stage: int, rounds: int, world: World) -> dict[str, Any]:
    """One row; every rank calls this, rank 0's is the one to show."""
    _, module = module_of(size)
    cores = len(os.sched_getaffinity(0))
    images = torch.randn(micro_batch_size, 3, IMAGE_SIZE, IMAGE_SIZE)
    ours = engine_step(size, copy.deepcopy(module), stage, images, world)
    bare = bare_step(module, images.repeat(world.size, 1, 1, 1))
    times: list[tuple[float, float]] = []
    for _ in range(WARM_UP_ROUNDS + rounds):
        torch.set_num_threads(cores)
        alone = seconds(bare if world.is_main else lambda: None)
        torch.set_num_threads(cores // world.size)
        times.append((alone, seconds(ours)))
    return row_of(size, micro_batch_size, stage, world, times[WARM_UP_ROUNDS:])


def row_of(
    size: str, micro_batch_size: int, stage: int, world: World, times: list[tuple[float, float]]
) -> dict[str, Any]:
    """One line of the table."""
    bare, ours = zip(*times, strict=True)
    ratio = statistics.median(own / alone for alone, own in times)
    return {
        "size": size,
        "ranks": world.size,
        "micro_batch_size": micro_batch_size,
        "stage": stage,
        "bare_ms": round(1000 * statistics.median(bare), 1),
        "ours_ms": round(1000 * statistics.median(ours), 1),
        "slower": f"{ratio - 1:+.1%}" if world.size == 1 else "",
        "of_one_process": f"{1 / ratio:.1%}" if world.size > 1 else "",
    }


def worker(settings: dict[str, str], result: Path) -> None:
    """One rank of one process group."""
    world = read_environment()
    process_group.initialise(world)
    rows = [
        measure(settings["size"], int(micro_batch_size), int(stage), int(settings["rounds"]), world)
        for micro_batch_size in settings["micro_batch_sizes"].split(",")
        for stage in settings["stages"].split(",")
    ]
    if world.is_main:
        result.write_text(json.dumps(rows))
    process_group.leave()


def run_group(settings: dict[str, str], ranks: int) -> list[dict[str, Any]]:
    """Start ``ranks`` processes of this file and return rank 0's rows."""
    threads = max(1, len(os.sched_getaffinity(0)) // ranks)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "rows.json"
        words = [f"{key}={value}" for key, value in settings.items()]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), RESULT: str(result)}
        subprocess.run([*launcher, __file__, *words], check=True, env=environment)
        rows: list[dict[str, Any]] = json.loads(result.read_text())
    return rows


def main() -> None:
    """Measure every group and print the rows."""
    settings, as_json = read_settings(__doc__ or "", DEFAULTS)
    if RESULT in os.environ:
        worker(settings, Path(os.environ[RESULT]))
        return
    show(
        [row for ranks in map(int, settings["ranks"].split(",")) for row in run_group(settings, ranks)], as_json=as_json
    )


if __name__ == "__main__":
    main()
