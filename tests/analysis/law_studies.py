"""Whole studies whose error follows a law that is known in advance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from study_files import STEPS, result, write_json, write_lines, write_task

SIZES = {"nano": 25_000, "micro": 98_304, "mini": 393_216, "tiny": 1_572_864, "small": 6_291_456}


@dataclass(frozen=True)
class StudySpec:
    """What a made-up study consists of: errors ``a * N^-b`` times noise, larger by 1.3 from scratch."""

    sizes: Mapping[str, int] = field(default_factory=lambda: SIZES)
    seeds: Sequence[int] = (0,)
    scratch: bool = True
    a: float = 4.0
    b: float = 0.2
    noise: float = 0.03
    plan: bool = True
    name: str = "model_size"


def write_study(path: Path, spec: StudySpec) -> Path:
    """Write plan.json and every run directory of ``spec`` below ``path``."""
    random = np.random.default_rng(0)
    planned = []
    for label, params in spec.sizes.items():
        for seed in spec.seeds:
            for init in ("pretrain", "scratch") if spec.scratch else ("pretrain",):
                run_id = f"{label}-{init}-s{seed}"
                tasks = ("pretrain", "classify", "segment") if init == "pretrain" else ("classify", "segment")
                for task in tasks:
                    metrics = _metrics(task, init, params, spec, float(np.exp(random.normal(0, spec.noise))))
                    write_task(path, run_id, task, result(run_id, task, init, label, params, seed, metrics))
                    write_lines(path / "runs" / run_id / task / "metrics.jsonl", _log(task, metrics, random))
                planned.append(_planned(run_id, label, init, seed, params, tasks))
    if spec.plan:
        plan = {
            "schema": 1,
            "study": spec.name,
            "grid": "model_size",
            "axes": ["model.size", "seed"],
            "runs": planned,
        }
        write_json(path / "plan.json", plan)
    return path


def _metrics(task: str, init: str, params: int, spec: StudySpec, noise: float) -> dict[str, float]:
    error = min(spec.a * params**-spec.b * noise * (1.3 if init == "scratch" else 1.0), 0.97)
    if task == "classify":
        return {"top1": 1 - error, "top5": 1 - error / 4, "loss": 3 * error, "top1_majority": 0.104}
    if task == "segment":
        return {
            "miou": 1 - min(error * 1.1, 0.95),
            "pixel_accuracy": 1 - error / 3,
            "loss": error,
            "miou_majority": 0.071,
        }
    return {
        "loss": -0.76,
        "cosine": 0.76,
        "copy_baseline": 0.66,
        "mean_baseline": 0.4,
        "skill": 1 - 1.2 * error,
        "effective_rank_embeddings": 12 / error**0.5,
        "effective_rank_outputs": 9 / error**0.5,
    }


def _log(task: str, metrics: Mapping[str, float], random: np.random.Generator) -> list[dict[str, float]]:
    rows = []
    for step in range(10, STEPS + 1, 10):
        decay = float(np.exp(-step / 150))
        rows.append(
            {
                "step": step,
                "images_seen": step * 32,
                "loss": metrics["loss"] + 0.4 * decay + random.normal(0, 0.01),
            }
        )
        if step % 50 == 0 and task == "pretrain":
            rows.append({"step": step, "images_seen": step * 32, "eval_skill": metrics["skill"] * (1 - decay)})
    return rows


def _planned(run_id: str, label: str, init: str, seed: int, params: int, tasks: Sequence[str]) -> dict[str, Any]:
    cost: dict[str, float] = {
        "params_total": int(params * 1.1) + 5000,
        "params_backbone": params,
        "images": 32_000,
    }
    cost |= {"flops": 1e12, "memory_bytes": 1e9, "seconds": 60}
    values = {"model.size": label, "seed": seed}
    return {
        "run_id": run_id,
        "label": label,
        "init": init,
        "values": values,
        "tasks": dict.fromkeys(tasks, cost),
    }
