"""Seconds of a pre-training step, beside bare PyTorch and beside NEPA written plainly in the style of the authors.

python benchmarks/train_step.py [width=96,192,384] [size=NAME] [cores=N] [rounds=15] [--json]

``width`` names the three models measured by default (0.7, 2.7 and 10.7 million parameters, batches of 64, 32 and
16 images); ``size`` instead takes one rung of the ladder, batch 16. Images are 64 pixels wide, patches 8 (65 tokens),
numbers fp32. ``cores``: default all there are. Each contestant has processes of its own (``step_process.py``), and a
round lets one after another take a few steps:

- ours: the engine in one process with all cores
- ranks: the engine with a rank per core, each with its share of the batch
- bare: the same module and optimiser in a plain loop of PyTorch, all cores
- reference: ``reference_nepa.py``, all cores

A figure is the median over rounds, ``ratio`` the median of reference / ours of a round, ``ranks_ratio`` that of
reference / ranks. ``mfu`` sets the useful FLOPs of a step (docs/measures.md) against the best rate of matrix
products, which is measured before, amid and after. ``first_step_s`` holds the time to compile.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from command import read_settings, show

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from step_process import Contestant, bare_step, engine_step, plain_step  # noqa: E402  (after the path)

from nepa_scale.config import ladder  # noqa: E402
from nepa_scale.config.schema import ModelConfig, RunConfig  # noqa: E402
from nepa_scale.config.task_settings import PretrainConfig  # noqa: E402
from nepa_scale.perf.throughput import peak_flops  # noqa: E402

IMAGE_SIZE, PATCH_SIZE = 64, 8
DEFAULTS = {"width": "96,192,384", "size": "", "cores": "", "rounds": "15"}
#: width: depth, heads and batch
MODELS = {96: (6, 3, 64), 192: (6, 3, 32), 384: (6, 6, 16)}


def configs(settings: dict[str, str]) -> list[RunConfig]:
    """The runs that ``size`` or ``width`` names."""
    if settings["size"]:
        return [run_config(ModelConfig(size=settings["size"], patch_size=PATCH_SIZE), batch=16)]
    chosen = {int(width): MODELS[int(width)] for width in settings["width"].split(",")}
    return [
        run_config(ModelConfig(patch_size=PATCH_SIZE, embed_dim=width, depth=depth, num_heads=heads), batch)
        for width, (depth, heads, batch) in chosen.items()
    ]


def run_config(model: ModelConfig, batch: int) -> RunConfig:
    """A pre-training run of ``model``."""
    section = PretrainConfig(image_size=IMAGE_SIZE, batch_size=batch, steps=10**6, epochs=None)
    return RunConfig(model=model, pretrain=section)


def measure(config: RunConfig, rounds: int, cores: int) -> dict[str, Any]:
    """One row: the contestants in turn, ``rounds`` times, and the machine's peak between them."""
    with ExitStack() as stack:
        contestants = {
            "ours": stack.enter_context(Contestant(engine_step, config, ranks=1, threads=cores)),
            "ranks": stack.enter_context(Contestant(engine_step, config, ranks=cores, threads=1)),
            "bare": stack.enter_context(Contestant(bare_step, config, ranks=1, threads=cores)),
            "reference": stack.enter_context(Contestant(plain_step, config, ranks=1, threads=cores)),
        }
        times: dict[str, list[float]] = {name: [] for name in contestants}
        peaks = [measured_peak()]
        for index in range(rounds):
            for name, contestant in contestants.items():
                times[name].append(contestant.seconds())
            if index in (rounds // 2, rounds - 1):
                peaks.append(measured_peak())
    return row_of(config, cores, times, max(peaks)) | {"first_step_s": round(contestants["ours"].first_step_seconds, 1)}


def row_of(config: RunConfig, cores: int, times: Mapping[str, list[float]], peak: float) -> dict[str, Any]:
    """One line of the table, from seconds of steps and the ``peak`` in operations per second."""
    arch, batch = config.model.architecture(), config.pretrain.batch_size
    flops = 3 * batch * ladder.forward_flops(arch, IMAGE_SIZE, causal=True, count="useful", idle_tokens=1)
    median = {name: statistics.median(found) for name, found in times.items()}
    mfu = {name: round(flops / seconds / peak, 3) for name, seconds in median.items()}
    return {
        "width": arch.embed_dim,
        "batch": batch,
        "cores": cores,
        "params": ladder.total_params(arch, IMAGE_SIZE),
        **{f"{name}_s": round(seconds, 4) for name, seconds in median.items()},
        "ratio": round(median_ratio(times["reference"], times["ours"]), 3),
        "ranks_ratio": round(median_ratio(times["reference"], times["ranks"]), 3),
        "mfu": mfu["ours"],
        "ranks_mfu": mfu["ranks"],
        "reference_mfu": mfu["reference"],
        "peak_gflops": round(peak / 1e9, 1),
    }


def measured_peak() -> float:
    """The best rate of matrix products just now, in operations per second."""
    return peak_flops(torch.device("cpu"), torch.float32).flops


def median_ratio(above: list[float], below: list[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def main() -> None:
    """Measure everything and print the table, or the rows as JSON."""
    settings, as_json = read_settings(__doc__ or "", DEFAULTS)
    cores = int(settings["cores"] or len(os.sched_getaffinity(0)))
    torch.set_num_threads(cores)
    rows = [measure(config, int(settings["rounds"]), cores) for config in configs(settings)]
    show(rows, as_json=as_json)


if __name__ == "__main__":
    main()
