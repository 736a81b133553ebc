"""Seconds of a pre-training step, beside bare PyTorch and beside NEPA written plainly in the style of the authors.

python benchmarks/train_step.py [width=96,192,384] [size=NAME] [threads=N] [rounds=15] [--json]

``width`` names the three models measured by default (0.7, 2.7 and 10.7 million parameters, batches of 64, 32 and
16 images); ``size`` instead takes one rung of the ladder, batch 16. Images are 64 pixels wide, patches 8 (65 tokens),
numbers fp32. ``threads``: default torch's own choice. A round measures, one after another:

- ours: ``Engine`` at ZeRO stage 0 with the pre-training task's module, everything as in training but the data loader
- bare: the same module and optimiser in a plain loop of PyTorch
- reference: ``reference_nepa.py``

A figure is the median over rounds, ``ratio`` the median of reference / ours of a round. ``mfu`` sets the useful FLOPs
of a step (docs/measures.md) against the best rate of matrix products, which is measured before, amid and after.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[0:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks")]

from command import read_settings, show  # noqa: E402  (after the path)
from reference_nepa import ReferenceNepa, reference_step  # noqa: E402

from nepa_scale import ladder  # noqa: E402
from nepa_scale.config import ModelConfig, PretrainConfig, RunConfig  # noqa: E402
from nepa_scale.model import build_backbone  # noqa: E402
from nepa_scale.optim import NO_LAYER_DECAY, build_optimizer, group_schedules  # noqa: E402
from nepa_scale.placing import ds_config  # noqa: E402
from nepa_scale.placing.device_memory import DeviceMemory  # noqa: E402
from nepa_scale.placing.placement import place  # noqa: E402
from nepa_scale.processes import distributed  # noqa: E402
from nepa_scale.processes.world import World  # noqa: E402
from nepa_scale.speed import allocator  # noqa: E402
from nepa_scale.speed.device_peak import peak_flops  # noqa: E402
from nepa_scale.tasks.pretrain import PretrainModule  # noqa: E402
from nepa_scale.zero.engine import Engine  # noqa: E402

Step = Callable[[Tensor], Any]
IMAGE_SIZE, PATCH_SIZE, WARM_UP_STEPS = 64, 8, 3
NOT_ASKED = DeviceMemory(None, "not asked", on_gpu=False)
DEFAULTS = {"width": "96,192,384", "size": "", "threads": "", "rounds": "15"}
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


def our_module(config: RunConfig) -> PretrainModule:
    """The module that the pre-training task trains."""
    return PretrainModule(build_backbone(config.model.architecture(), IMAGE_SIZE), config.pretrain)


def our_step(config: RunConfig) -> Step:
    """The engine's step."""
    section = config.pretrain
    module = our_module(config)
    module.backbone.compile_blocks()  # as a long training does by default
    module.compile_loss()
    optimizer = build_optimizer(module, section)
    schedules = group_schedules(optimizer.param_groups, section, section.total_steps(1), NO_LAYER_DECAY)
    settings = ds_config.resolve(config, "pretrain", place(config, "pretrain", 1, NOT_ASKED))
    engine = Engine(module, optimizer, schedules, settings, world=World(), device=torch.device("cpu"))
    return lambda images: engine.step([(images,)], step=1, before_forward=lambda _index: None)


def bare_step(config: RunConfig) -> Step:
    """A plain loop around the same module and optimiser."""
    module = our_module(config)
    optimizer = build_optimizer(module, config.pretrain)

    def step(images: Tensor) -> float:
        loss = module(images)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), config.pretrain.clip_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def reference(config: RunConfig) -> Step:
    """The plain reference's step."""
    arch, section = config.model.architecture(), config.pretrain
    model = ReferenceNepa(arch.embed_dim, arch.depth, arch.num_heads, arch.patch_size, IMAGE_SIZE)
    betas = (section.beta1, section.beta2)
    return reference_step(model, lr=section.peak_lr, weight_decay=section.weight_decay, betas=betas)


def measure(config: RunConfig, rounds: int) -> dict[str, Any]:
    """One row: the three steps in turn, ``rounds`` times, and the device's peak between them."""
    arch, batch = config.model.architecture(), config.pretrain.batch_size
    images = torch.randn(batch, arch.in_chans, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    steps: dict[str, Step] = {"ours": our_step(config), "bare": bare_step(config), "reference": reference(config)}
    warm_up = {name: seconds(step, images) for name, step in steps.items()}
    for _ in range(WARM_UP_STEPS - 1):
        for step in steps.values():
            step(images)
    times: dict[str, list[float]] = {name: [] for name in steps}
    peaks = [measured_peak()]
    for index in range(rounds):
        for name, step in steps.items():
            times[name].append(seconds(step, images))
        if index in (rounds // 2, rounds - 1):
            peaks.append(measured_peak())
    flops = batch * ladder.train_flops(arch, IMAGE_SIZE, causal=True, count="useful", idle_tokens=1)
    median = {name: statistics.median(found) for name, found in times.items()}
    return {
        "width": arch.embed_dim,
        "depth": arch.depth,
        "batch": batch,
        "threads": torch.get_num_threads(),
        "params": ladder.total_params(arch, IMAGE_SIZE),
        **{f"{name}_s": round(value, 5) for name, value in median.items()},
        "ratio": round(median_ratio(times["reference"], times["ours"]), 3),
        "over_bare": round(median_ratio(times["ours"], times["bare"]), 3),
        "mfu": round(flops / median["ours"] / max(peaks), 3),
        "reference_mfu": round(flops / median["reference"] / max(peaks), 3),
        "peak_gflops": round(max(peaks) / 1e9, 1),
        "first_step_s": round(warm_up["ours"], 2),
    }


def measured_peak() -> float:
    """The best rate of matrix products just now, in operations per second."""
    return peak_flops(torch.device("cpu"), torch.float32).flops


def seconds(step: Step, images: Tensor) -> float:
    """How long one step takes."""
    started = time.perf_counter()
    step(images)
    return time.perf_counter() - started


def median_ratio(above: list[float], below: list[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def main() -> None:
    """Measure everything and print the table, or the rows as JSON."""
    settings, as_json = read_settings(__doc__ or "", DEFAULTS)
    allocator.keep_freed_memory()  # as a training does
    distributed.initialise(distributed.read_environment())
    if settings["threads"]:
        torch.set_num_threads(int(settings["threads"]))
    torch.manual_seed(0)
    rows = [measure(config, int(settings["rounds"])) for config in configs(settings)]
    distributed.shut_down()
    show(rows, as_json=as_json)


if __name__ == "__main__":
    main()
