"""Tasks small enough to evaluate in a test, and their validation samples without any loader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch

from nepa_scale.config.overrides import parse
from nepa_scale.config.registry import TASKS
from nepa_scale.config.schema import RunConfig
from nepa_scale.data.transforms import normalise
from nepa_scale.tasks.task import Task

CPU = torch.device("cpu")
SIZES = tuple(f"{task}.image_size=48" for task in TASKS)
AnyTask = TypeVar("AnyTask", bound=Task)


def config_of(root: Path, task: str, *words: str) -> RunConfig:
    """A tiny run of ``task`` on data below ``root``."""
    return parse([f"data.root={root}", f"task={task}", "model=femto", "segment.channels=8", *SIZES, *words])


def with_random_weights(task: AnyTask) -> AnyTask:
    """Give every weight a value that matters: fresh heads and LayerScales hide what lies behind them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in task.module.parameters():
            offset = 1.0 if parameter.ndim == 1 else 0.0
            parameter.copy_(offset + 0.2 * torch.randn(parameter.shape, generator=generator))
    return task


def images_of(task: Task) -> Iterator[Any]:
    """The validation samples, one by one, past every loader."""
    for index in range(len(task.eval_data)):
        item = task.eval_data[0, index]
        yield normalise(item) if isinstance(item, torch.Tensor) else item  # pre-training's are bytes until then
