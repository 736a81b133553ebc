"""The result of a finished task: what was run, on what, at what cost, and what came out."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from nepa_scale.perf.throughput import Throughput
from nepa_scale.placement.costs import FLOPS_CONVENTION
from nepa_scale.placement.resolved import ResolvedTask
from nepa_scale.run_dir.status import now
from nepa_scale.utils.files import write_json

SCHEMA = 1
RECORDED_PACKAGES = ("torch", "deepspeed", "timm", "webdataset")


def write_result(
    task_dir: Path,
    resolved: ResolvedTask,
    *,
    metrics: dict[str, float],
    details: dict[str, Any],
    validation_images: int,
    starts_finetuned: bool,
    source: Mapping[str, Any],
    params: int,
    throughput: Throughput,
    images_replaced: int,
    wall_seconds: float,
    startup_seconds: float | None,
) -> None:
    """Write ``result.json``; its presence is what makes a task's outcome count.

    ``source`` is what ``weights.initial`` says of the weights that the task started from.
    """
    config, cost, placement = resolved.config, resolved.cost, resolved.placement
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "run_id": config.run_id,
        "task": config.task,
        "init": config.init,
        "init_finetuned": starts_finetuned,
        **source,
        "config": config.flat(),
        "params_total": params,
        "params_backbone": cost.params_backbone,
        "steps": cost.steps,
        "images_seen": cost.images_seen,
        "unique_images": cost.unique_images,
        "images_replaced": images_replaced,
        "tokens_seen": cost.tokens_seen,
        "flops_train": cost.flops_train,
        "flops_convention": FLOPS_CONVENTION,
        "metrics": metrics,
        "details": details,
        "validation_images": validation_images,
        "seed": config.seed,
        "wall_seconds": round(wall_seconds, 3),
        "startup_seconds": None if startup_seconds is None else round(startup_seconds, 3),
        "device_kind": _device_kind(),
        "device_count": placement.world_size,
        "peak_memory_bytes": throughput.memory_peak_bytes,
        "throughput": throughput.summary(),
        "placement": {
            "zero_stage": placement.zero_stage,
            "micro_batch_size": placement.micro_batch_size,
            "accumulation": placement.accumulation,
            "activation_checkpointing": placement.activation_checkpointing,
            "memory_bytes": placement.memory.total,
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in RECORDED_PACKAGES},
        },
        "commit": _commit(),
        "finished_at": now(),
    }
    write_json(task_dir / "result.json", content)


def _device_kind() -> str:
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"cpu ({platform.machine()}, {os.environ.get('OMP_NUM_THREADS', '?')} threads)"


def _commit() -> str:
    """The commit of this checkout; unknown for an installed package, whatever repository it is installed in."""
    if shutil.which("git") is None:
        return "unknown"
    this = Path(__file__)
    git = ["git", "-C", str(this.parent)]
    tracked = subprocess.run([*git, "ls-files", "--error-unmatch", this.name], capture_output=True, check=False)
    if tracked.returncode:
        return "unknown"
    return subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
