"""The files of a study directory, written as the launcher and the trainer write them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

STEPS = 600
CONVENTION = "multiply-add = 2; training = 3 x forward; causal attention counted as useful work"


def write_task(study: Path, run_id: str, task: str, outcome: Mapping[str, Any], state: str = "finished") -> Path:
    """Write status.json and result.json of one task; returns its directory."""
    directory = study / "runs" / run_id / task
    write_status(directory, state, step=STEPS)
    write_json(directory / "result.json", outcome)
    return directory


def write_status(directory: Path, state: str, step: int, error: str | None = None) -> None:
    """Write status.json as the trainer does."""
    write_json(
        directory / "status.json",
        {"state": state, "step": step, "steps_total": STEPS, "attempt": 1, "error": error}
        | {"updated_at": "2026-01-02T03:04:05+00:00"},
    )


def result(
    run_id: str, task: str, init: str, label: str, params: int, seed: int, metrics: Mapping[str, float]
) -> dict[str, Any]:
    """A complete result.json, schema 1."""
    images = 192_000 if task == "pretrain" else 32_000
    config = {
        "model.size": label,
        "seed": seed,
        "model.patch_size": 8,
        "data.name": "digits",
        "train.lr": 1e-3,
    }
    return {
        "schema": 1,
        "run_id": run_id,
        "task": task,
        "init": init,
        "config": config,
        "params_total": int(params * 1.1) + 5000,
        "params_backbone": params,
        "images_seen": images,
        "unique_images": 4000,
        "tokens_seen": images * 64,
        "flops_train": 6.3 * params * images * 64,
        "flops_convention": CONVENTION,
        "metrics": dict(metrics),
        "seed": seed,
        "wall_seconds": 12.5,
        "device_kind": "cpu",
        "device_count": 1,
        "peak_memory_bytes": 350_000_000,
        "versions": {"python": "3.11.9", "torch": "2.9.0", "deepspeed": "0.18.2"},
        "commit": "0123abc",
        "finished_at": "2026-01-02T03:04:05+00:00",
    }


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as JSON, making the folders it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one JSON object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
