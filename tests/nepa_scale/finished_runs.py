"""Run folders as tasks leave them, with random weights, and what is exported from them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from PIL import Image
from small_tasks import with_random_weights

from nepa_scale.config import overrides
from nepa_scale.tasks.task import Task
from nepa_scale.weights.__main__ import main


def finished_run(task: Task, run_dir: Path, *, name: str = "model.safetensors") -> Path:
    """A run folder as ``task`` leaves it when it ends with random weights."""
    with_random_weights(task)
    overrides.save(task.config, run_dir / "config.yaml")
    (run_dir / task.name).mkdir()
    tensors = task.exported(dict(task.module.state_dict()))
    safetensors.torch.save_file({key: value.clone() for key, value in tensors.items()}, run_dir / task.name / name)
    task.module.eval()
    return run_dir


def export(source: Path, out: Path, layout: str, *flags: str) -> Path:
    assert main(["export", str(source), str(out), "--layout", layout, *flags]) == 0
    return out


def timm_model(folder: Path) -> torch.nn.Module:
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def pictures_of(task: Task) -> list[Image.Image]:
    """The validation images as they are stored."""
    source: Any = task.eval_data.source
    return [Image.open(io.BytesIO(source[index].image)).convert("RGB") for index in range(len(source))]
