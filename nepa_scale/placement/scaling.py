"""How training would scale on GPUs: ``python -m nepa_scale.placement.scaling model.size=giant devices=8,64,512,1024``.

The pre-training of the paper's recipe at a fixed batch, but for the settings given, by the performance model. Needs
neither GPUs nor data.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from nepa_scale.config import overrides, validate
from nepa_scale.config.schema import RunConfig
from nepa_scale.placement import performance
from nepa_scale.placement.devices import DeviceMemory, Placement
from nepa_scale.placement.gpus import linked_devices, stated_memory
from nepa_scale.placement.performance import StepTime
from nepa_scale.placement.planner import place
from nepa_scale.utils.cli import command
from nepa_scale.utils.errors import ConfigError, UserError

PAPERS = (
    "pretrain.recipe=nepa_base",
    "model.size=base",
    "model.patch_size=14",
    "model.mlp=swiglu",
    "engine.precision=bf16",
)
HELP = f"""usage: python -m nepa_scale.placement.scaling [devices=8,64] [device=h100] [images_per_core=N] key=value ...

devices          numbers of GPUs, with commas
device           {", ".join(linked_devices())}
images_per_core  images/s that one loader process delivers, as benchmarks/data_loading.py measures it; a GPU has
                 data.num_workers of them; without it images are taken to be there in time
key=value        settings of the run, as of nepa_scale/train.py; those of the paper's pre-training where none are given
"""
MOST_DEVICES = 2**20


@dataclass(frozen=True)
class Row:
    """One number of devices: how training lies on them, how long a step takes, and images/s of all of them."""

    devices: int
    placement: Placement
    step: StepTime
    images_per_second: float


@command
def main(words: Sequence[str]) -> int:
    """Print a line for each number of devices; returns the exit code."""
    if {"--help", "-h"} & set(words):
        print(HELP)
        return 0
    own, rest = _split(words)
    config = overrides.build([*overrides.split_words(PAPERS), *rest])
    device = own.get("device", "h100")
    rate = _rate(own.get("images_per_core"), config)
    found = rows(config, device, _counts(own.get("devices", "8,64,512,1024")), rate)
    print("\n".join(_lines(config, device, found)))
    return 0


def rows(config: RunConfig, device: str, counts: Sequence[int], images_per_second: float | None = None) -> list[Row]:
    """What the model says of ``config.task`` on so many devices of a kind; ``images_per_second``: loaders' of each.

    Raises ``UserError`` where the device is not known or the batch does not divide.
    """
    gpu, task = performance.device_called(device), config.task
    problems = [line for count in counts for line in validate.check_batches(config, (task,), count)]
    if problems:
        raise ConfigError(problems)
    memory = DeviceMemory(stated_memory(device), f"the most a {device} has", on_gpu=True, gpu=device)
    found = []
    for count in counts:
        placement = place(config, task, count, memory)
        step = performance.placed_step(config, performance.work_of(config, task), placement, gpu, images_per_second)
        found.append(Row(count, placement, step, config.task_config(task).batch_size / step.total))
    return found


def _lines(config: RunConfig, device: str, found: Sequence[Row]) -> list[str]:
    first = found[0].images_per_second / found[0].devices
    lines = [
        f"{config.task} of {config.model.size} on {device}, {config.task_config().batch_size} images a step,"
        f" {config.engine.precision}; by the performance model (docs/scaling.md), not measured",
        f"{'devices':>8} {'ZeRO':>6} {'batch':>9} {'step':>10} {'images/s':>10} {'efficiency':>10}  bound by",
    ]
    for row in found:
        placed, step = row.placement, row.step
        share = getattr(step, step.bound) / step.total
        stage = f"{placed.zero_stage}{' r' if placed.activation_checkpointing else ''}"
        batch = f"{placed.micro_batch_size}x{placed.accumulation}"
        unfit = "" if placed.fits else f"; needs {placed.memory.total / 2**30:.0f} GiB, which no {device} has"
        lines.append(
            f"{row.devices:>8} {stage:>6} {batch:>9} {step.total * 1e3:>7.1f} ms {row.images_per_second:>10,.0f}"
            f" {row.images_per_second / row.devices / first:>10.0%}  {step.bound} ({share:.0%}){unfit}"
        )
    lines.append(
        f"efficiency: images/s of a device beside those on {found[0].devices}; r: with activation checkpointing"
    )
    return lines


def _split(words: Sequence[str]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The command's own words, and the settings of the run."""
    pairs = overrides.split_words(words)
    own = {key: value for key, value in pairs if key in ("devices", "device", "images_per_core")}
    return own, [pair for pair in pairs if pair[0] not in own]


def _counts(text: str) -> list[int]:
    parts = text.strip("[]").split(",")
    if not all(part.strip().isdecimal() and 0 < int(part) <= MOST_DEVICES for part in parts):
        raise UserError(f"devices={text}: expected numbers of GPUs from 1 to {MOST_DEVICES:,}, e.g. devices=8,64")
    return [int(part) for part in parts]


def _rate(text: str | None, config: RunConfig) -> float | None:
    """Images per second that the loaders of one device deliver."""
    if text is None:
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < 10**9:
        raise UserError(f"images_per_core={text}: expected images/s of one loader process")
    return rate * max(1, config.data.num_workers)


if __name__ == "__main__":
    sys.exit(main())
