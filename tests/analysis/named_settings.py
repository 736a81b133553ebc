"""Studies of named settings (ablation grids) as the launcher and the trainer leave them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from study_files import STEPS, result, write_json, write_lines, write_status, write_task

PARAMS = 1_000_000
HEALTHY = {
    "loss": -0.76,
    "cosine": 0.76,
    "copy_baseline": 0.66,
    "mean_baseline": 0.4,
    "skill": 0.28,
    "self_cosine": 0.7,
    "effective_rank_embeddings": 14.0,
    "effective_rank_outputs": 21.0,
}
COLLAPSED = HEALTHY | {"loss": -1.0, "skill": 0.0, "self_cosine": 1.0}
COLLAPSED |= {"effective_rank_embeddings": 1.02, "effective_rank_outputs": 1.01}
IDENTITY = HEALTHY | {"loss": -0.999, "skill": -0.2, "self_cosine": 0.999}


@dataclass(frozen=True)
class Setting:
    """One named point: what it measured, by seed."""

    top1: Sequence[float | None] = (0.6,)
    """None: fine-tuning failed."""
    pretrain: Mapping[str, float] = field(default_factory=lambda: HEALTHY)
    values: Mapping[str, Any] = field(default_factory=dict)
    shares_with: str | None = None
    """The label whose pretraining this one uses."""


def write_settings(path: Path, grid: str, settings: Mapping[str, Setting], seeds: Sequence[int] = (0,)) -> Path:
    """Write plan.json and the run directories of a grid of named points below ``path``."""
    planned = []
    for place, (label, one) in enumerate(settings.items()):
        for seed, top1 in zip(seeds, one.top1, strict=True):
            run_id = f"r{place}-s{seed}"
            owner = f"r{list(settings).index(one.shares_with)}-s{seed}" if one.shares_with else None
            if owner is None:
                _write(path, run_id, "pretrain", seed, dict(one.pretrain))
            if top1 is None:
                write_status(path / "runs" / run_id / "classify", "failed", 40, error="the loss is not finite")
            else:
                _write(path, run_id, "classify", seed, _classified(top1))
            tasks = ["classify"] if owner else ["pretrain", "classify"]
            planned.append(
                {"run_id": run_id, "label": label, "init": "pretrain", "values": {**one.values, "seed": seed}}
                | {"tasks": {task: {"params_backbone": PARAMS} for task in tasks}, "pretrained_by": owner}
            )
    axes = list(dict.fromkeys(key for one in settings.values() for key in one.values))
    axes += ["seed"] if len(seeds) > 1 else []
    write_json(path / "plan.json", {"schema": 1, "study": "tiny_ablation", "grid": grid, "axes": axes, "runs": planned})
    return path


def objective(seeds: Sequence[int] = (0,)) -> dict[str, Setting]:
    """Table 1a as the paper tells it, at a small scale."""
    n = len(seeds)
    return {
        "no shift": Setting((0.11,) * n, IDENTITY, {"pretrain.shift": False}),
        "no causal mask": Setting([0.52 + 0.01 * seed for seed in seeds], HEALTHY, {"pretrain.attention": "both"}),
        "no stop-gradient": Setting((None,) * n, COLLAPSED, {"pretrain.stop_gradient": False}),
        "full": Setting([0.60 + 0.012 * seed for seed in seeds]),
    }


def _classified(top1: float) -> dict[str, float]:
    return {"top1": top1, "top5": min(1, top1 + 0.3), "loss": 2 - top1, "top1_majority": 0.104, "ema_top1": top1 - 0.01}


def _write(path: Path, run_id: str, task: str, seed: int, metrics: dict[str, float]) -> None:
    outcome = result(run_id, task, "pretrain", "nano", PARAMS, seed, metrics)
    config = {"classify.dataset": "imagenette-128", "classify.image_size": 64}
    write_task(path, run_id, task, outcome | {"config": outcome["config"] | config})
    rows: list[dict[str, float]] = []
    for step in range(20, STEPS + 1, 20):
        done = step / STEPS
        row = {"step": step, "images_seen": 32 * step, "loss": metrics["loss"] + 0.3 * (1 - done)}
        if task == "pretrain" and step % 100 == 0:
            row |= {"eval_skill": metrics["skill"] * done}
            row["eval_effective_rank_embeddings"] = metrics["effective_rank_embeddings"] + 10 * (1 - done)
        rows.append(row)
    write_lines(path / "runs" / run_id / task / "metrics.jsonl", rows)
