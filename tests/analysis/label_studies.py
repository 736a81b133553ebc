"""Studies over the number of labelled images whose errors follow laws a known factor apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from study_files import result, write_json, write_task

PARAMS = {"femto": 38_000, "pico": 114_000, "nano": 301_000}
KEYS = ("classify.fraction", "segment.fraction")


@dataclass(frozen=True)
class LabelSpec:
    """Errors ``a L^-b`` times noise; from scratch those of ``factor`` times fewer labels, by size."""

    factors: Mapping[str, float] = field(default_factory=lambda: {"nano": 3.0})
    images: Sequence[int] = (256, 512, 1024, 2048, 4096)
    seeds: Sequence[int] = (0,)
    starts: Sequence[str] = ("pretrain", "scratch")
    a: float = 4.0
    b: float = 0.35
    noise: float = 0.02


def write(path: Path, spec: LabelSpec) -> Path:
    """Write plan.json and the runs of ``spec`` below ``path``."""
    random = np.random.default_rng(0)
    planned = []
    for size, factor in spec.factors.items():
        for seed in spec.seeds:
            for start in spec.starts:
                for images in spec.images:
                    seen = images / (factor if start == "scratch" else 1)
                    error = min(spec.a * seen**-spec.b * float(np.exp(random.normal(0, spec.noise))), 0.99)
                    planned.append(_run(path, size, seed, start, images, error, max(spec.images)))
    plan = {"schema": 1, "study": "labels", "grid": "label_fraction", "axes": ["model.size", *KEYS, "seed"]}
    write_json(path / "plan.json", {**plan, "runs": planned})
    return path


def _run(path: Path, size: str, seed: int, start: str, images: int, error: float, most: int) -> dict[str, Any]:
    """Write one run and return it as planned."""
    run_id, label = f"{size}-{start}-{images}-{seed}", f"fraction={images / most:g} {size}"
    scores = {"classify": {"top1": 1 - error, "top1_majority": 0.1}, "segment": {"miou": 1 - min(error * 1.1, 0.99)}}
    values = {"model.size": size, **dict.fromkeys(KEYS, images / most), "seed": seed}
    for task, metrics in scores.items():
        content = result(run_id, task, start, size, PARAMS[size], seed, metrics) | {"unique_images": images}
        content["config"] |= values
        write_task(path, run_id, task, content)
    return {"run_id": run_id, "label": label, "init": start, "values": values, "tasks": {task: {} for task in scores}}
