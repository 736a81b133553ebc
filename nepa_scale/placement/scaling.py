"""How training would scale on GPUs: ``python -m nepa_scale.placement.scaling model.size=giant devices=8,64,512,1024``.

The pre-training of the paper's recipe at a fixed batch, but for the settings given, by the performance model. Needs
neither GPUs nor data.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from nepa_scale.config import overrides, validate
from nepa_scale.config.schema import RunConfig
from nepa_scale.placement import performance
from nepa_scale.placement.devices import DeviceMemory, Placement
from nepa_scale.placement.gpus import linked_devices, stated_memory
from nepa_scale.placement.performance import StepTime
from nepa_scale.placement.planner import place
from nepa_scale.utils.arguments import ANSWERS_IN_JSON, help_page, key_lines, option, parse
from nepa_scale.utils.cli import Grammar, command, print_json
from nepa_scale.utils.errors import ConfigError

PAPERS = (
    "pretrain.recipe=nepa_base",
    "model.size=base",
    "model.patch_size=14",
    "model.mlp=swiglu",
)
MOST_DEVICES = 2**20


def counts(text: str) -> tuple[int, ...]:
    """How numbers of devices are read. Raises ``ValueError``."""
    parts = [part.strip() for part in text.strip("[]").split(",")]
    if not all(part.isdecimal() and 0 < int(part) <= MOST_DEVICES for part in parts):
        raise ValueError(f"expected numbers of GPUs from 1 to {MOST_DEVICES:,}, e.g. devices=8,64")
    return tuple(map(int, parts))


@dataclass(frozen=True)
class Row:
    """One number of devices: how training lies on them, how long a step takes, and images/s of all of them."""

    devices: int
    placement: Placement
    step: StepTime
    images_per_second: float

    def efficiency(self, first: Row) -> float:
        """Images/s of a device beside those of ``first``."""
        return self.images_per_second / self.devices / (first.images_per_second / first.devices)


@dataclass(frozen=True)
class Settings:
    """What the command is asked for beside the settings of the run, which are ``pairs``."""

    devices: Sequence[int] = option(
        "numbers of GPUs, with commas", (8, 64, 512, 1024), read=counts, form="8,64,512,1024"
    )
    device: str = option("the kind of GPU", "h100", choices=tuple(linked_devices()))
    images_per_core: float | None = option(
        "images/s that one loader process delivers, as benchmarks/data_loading.py measures it; a GPU has"
        " data.num_workers of them; without it images are taken to be there in time",
        None,
        above=0,
    )
    json: bool = option(ANSWERS_IN_JSON, False)


def read(words: Sequence[str]) -> tuple[Settings, RunConfig]:
    """The command's own settings, and the run. Raises ``ConfigError``."""
    names = {item.name for item in fields(Settings)}
    words = overrides.spell(words)
    own = [word for word in words if word.partition("=")[0] in names]
    rest = [word for word in words if word not in own]
    return parse(Settings, own), overrides.build(overrides.split_words([*PAPERS, *rest]))


def help_text(_: Sequence[str]) -> str:
    """What ``--help`` prints."""
    return help_page(
        "python -m nepa_scale.placement.scaling [devices=8,64] [device=h100] key=value ... (installed: nepa-scaling)",
        "How training would scale on GPUs, by the performance model; needs neither GPUs nor data. The other keys are "
        "settings of the run, as of nepa_scale/train.py; those of the paper's pre-training where none are given.",
        key_lines(Settings),
        "nepa-scaling model.size=giant devices=8,64,512 device=h100",
    )


@command(Grammar(read, help_text))
def main(asked: tuple[Settings, RunConfig]) -> int:
    """Print a line for each number of devices; returns the exit code."""
    settings, config = asked
    per_core = settings.images_per_core
    rate = None if per_core is None else per_core * max(1, config.data.num_workers)
    predicted = rows(config, settings.device, settings.devices, rate)
    if settings.json:
        print_json(_document(config, settings.device, predicted))
    else:
        print("\n".join(_lines(config, settings.device, predicted)))
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


def _document(config: RunConfig, device: str, predicted: Sequence[Row]) -> dict[str, Any]:
    """The rows for scripts: times in seconds, memory in bytes."""
    return {
        "task": config.task,
        "size": config.model.size,
        "device": device,
        "batch_size": config.task_config().batch_size,
        "precision": config.engine.precision,
        "rows": [
            {
                "devices": row.devices,
                "zero_stage": row.placement.zero_stage,
                "activation_checkpointing": row.placement.activation_checkpointing,
                "micro_batch_size": row.placement.micro_batch_size,
                "accumulation": row.placement.accumulation,
                "memory_bytes": row.placement.memory.total,
                "fits": row.placement.fits,
                "step_seconds": row.step.total,
                "images_per_second": row.images_per_second,
                "efficiency": row.efficiency(predicted[0]),
                "bound_by": row.step.bound,
                "bound_fraction": getattr(row.step, row.step.bound) / row.step.total,
            }
            for row in predicted
        ],
    }


def _lines(config: RunConfig, device: str, found: Sequence[Row]) -> list[str]:
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
        shortage = "" if placed.fits else f"; needs {placed.memory.total / 2**30:.0f} GiB, which no {device} has"
        lines.append(
            f"{row.devices:>8} {stage:>6} {batch:>9} {step.total * 1e3:>7.1f} ms {row.images_per_second:>10,.0f}"
            f" {row.efficiency(found[0]):>10.0%}  {step.bound} ({share:.0%}){shortage}"
        )
    lines.append(
        f"efficiency: images/s of a device beside those on {found[0].devices}; r: with activation checkpointing"
    )
    return lines


if __name__ == "__main__":
    sys.exit(main())
