"""Checkpoints by size: bytes, time to save and to load, and how long training stands still for one.

python benchmarks/checkpoint.py [sizes=micro,tiny,small] [stage=1] [ema=0.9999] [precision=fp32] [batch=32]
                                [repeats=5] [folder=DIR] [--json]
torchrun --nproc_per_node 2 benchmarks/checkpoint.py ...

Trains each size of the ladder on random 64-px images at patch 8, ``batch`` of them a step over all ranks, and saves in
the foreground and in the background in turn, ``repeats`` times each. Figures are medians, in seconds:

- step_s: an optimiser step with nothing else going on
- save_s: a checkpoint in the foreground, all of which training waits for; save_mb_s: its bytes over that time
- stall_s: what a background checkpoint holds training up by at the two boundaries where it is begun and committed
- slowed_s: by how much the steps in between take longer than step_s, all together: on CPUs writer and training share
  the cores
- load_s: reading it back, its hashes checked
- stall_steps: stall_s / step_s
"""

from __future__ import annotations

import statistics
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

from nepa_scale.checkpoint.checkpointer import Checkpoints  # noqa: E402
from nepa_scale.config import overrides  # noqa: E402  (after the path)
from nepa_scale.distributed import process_group  # noqa: E402  (after the path)
from nepa_scale.distributed.process_group import gather_objects  # noqa: E402
from nepa_scale.distributed.world import World  # noqa: E402
from nepa_scale.models.build import build_backbone  # noqa: E402
from nepa_scale.placement.devices import DeviceMemory  # noqa: E402
from nepa_scale.placement.planner import place  # noqa: E402
from nepa_scale.tasks.next_embedding import NextEmbedding  # noqa: E402

DEFAULTS = {"sizes": "micro,tiny,small", "stage": "1", "ema": "0.9999", "precision": "fp32", "batch": "32"} | {
    "repeats": "5",
    "folder": "",
}
IMAGE_SIZE, PATCH_SIZE, WARM_UP_STEPS = 64, 8, 3


class Bench:
    """One size, trained on the same random images at every step."""

    def __init__(self, size: str, folder: Path, settings: dict[str, str], world: World, device: torch.device) -> None:
        self.batch = int(settings["batch"])
        config = overrides.parse(
            [
                f"model.size={size}",
                f"model.patch_size={PATCH_SIZE}",
                f"pretrain.image_size={IMAGE_SIZE}",
                f"pretrain.batch_size={self.batch}",
                f"engine.ds_config=zero{settings['stage']}",
                f"engine.precision={settings['precision']}",
            ]
        )
        backbone = build_backbone(config.model.architecture(), IMAGE_SIZE)
        module = NextEmbedding(backbone, config.pretrain)
        self.params = sum(parameter.numel() for parameter in module.parameters())
        placement = place(config, "pretrain", world.size, DeviceMemory(None, "not asked", on_gpu=False))
        self.engine = built_engine(module, config, placement, world, device, ema_decay=float(settings["ema"]))
        self.folder, self.world, self.steps = folder / size, world, 0
        self.images = torch.randn(self.batch // world.size, 3, IMAGE_SIZE, IMAGE_SIZE, device=device)
        self.saves = {
            mode: Checkpoints(self.folder / str(mode), self.engine.state, world, keep=1, asynchronous=mode)
            for mode in (False, True)
        }

    def step(self) -> float:
        """Seconds of one optimiser step."""
        self.steps += 1
        return seconds(lambda: self.engine.step([(self.images,)], step=self.steps, before_forward=lambda _: None))

    def foreground(self) -> float:
        """Seconds of a checkpoint that training waits for."""
        return seconds(lambda: self.saves[False].save(self.steps))

    def background(self, step_seconds: float) -> tuple[float, float]:
        """(seconds that training stands still, seconds that steps take longer) for a checkpoint written meanwhile."""
        saves, slowed, writing = self.saves[True], 0.0, True
        stall = seconds(lambda: saves.save(self.steps, wait=False))
        while writing:
            slowed += self.step() - step_seconds
            writing = any(gather_objects(saves.writing))
        return stall + seconds(saves.finish), slowed

    def measure(self, repeats: int) -> dict[str, Any]:
        """The row of this size."""
        for _ in range(WARM_UP_STEPS):
            self.step()
        self.foreground(), self.background(0.0)  # the first one of each makes buffers and folders
        plain, saves, stalls, slowed, loads = [], [], [], [], []
        for _ in range(repeats):
            plain.append(statistics.median(self.step() for _ in range(3)))
            saves.append(self.foreground())
            stall, longer = self.background(plain[-1])
            stalls.append(stall)
            slowed.append(longer)
            loads.append(seconds(self.saves[True].load_newest))
        size = sum(file.stat().st_size for file in (self.folder / "True").rglob("*") if file.is_file())
        step, save, stall = (statistics.median(values) for values in (plain, saves, stalls))
        return {
            "params": self.params,
            "mbytes": round(size / 1e6, 1),
            "bytes_per_param": round(size / self.params, 1),
            "step_s": round(step, 3),
            "save_s": round(save, 3),
            "save_mb_s": round(size / 1e6 / save),
            "stall_s": round(stall, 3),
            "slowed_s": round(statistics.median(slowed), 3),
            "load_s": round(statistics.median(loads), 3),
            "stall_steps": round(stall / step, 2),
            "save_steps": round(save / step, 2),
        }


def seconds(action: Callable[[], object]) -> float:
    """Time from a point that all ranks have reached to the end of what this one does."""
    process_group.barrier()
    before = time.perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - before


def main() -> None:
    """Measure every size and print the table, or the rows as JSON."""
    settings, as_json = read_settings(__doc__ or "", DEFAULTS)
    world = read_environment()
    device = process_group.initialise(world)
    with tempfile.TemporaryDirectory(dir=settings["folder"] or None) as own:
        folder = Path(gather_objects(own)[0])
        rows = []
        for size in settings["sizes"].split(","):
            bench = Bench(size, folder, settings, world, device)
            placement = {"size": size, "stage": int(settings["stage"]), "ranks": world.size}
            rows.append(placement | bench.measure(int(settings["repeats"])))
        process_group.barrier()  # before rank 0 removes the folder
    if world.is_main:
        show(rows, as_json=as_json)
    process_group.leave()


if __name__ == "__main__":
    main()
