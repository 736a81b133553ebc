"""Studies whose arms were tried at several values of a setting of fine-tuning, as the launcher and the trainer leave
them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study_files import result, write_json, write_status, write_task

KEY = "classify.base_lr"
OWN = [f"own{number}" for number in range(9)]
PARAMS = {"femto": 38_000, "pico": 114_000, "nano": 301_000} | {size: 1000 * 2**i for i, size in enumerate(OWN)}


@dataclass(frozen=True)
class Tried:
    """A study: for each (label, start, seed) its rates with tuning and validation top-1, or a state.

    A label is a size, with or without a word behind it. Other settings than rates are tuned by their ``key``."""

    arms: Mapping[tuple[str, str, int], Mapping[Any, tuple[float, float] | str]]
    tuned: bool = True
    key: str = KEY


def write_tried(path: Path, spec: Tried) -> Path:
    """Write plan.json and the runs below ``path``."""
    planned: list[dict[str, Any]] = []
    for (label, start, seed), rates in spec.arms.items():
        size = label.partition(" ")[0]
        for rate, outcome in rates.items():
            run_id = f"{label}-{start}-{seed}-{rate}"
            if isinstance(outcome, str):
                write_status(path / "runs" / run_id / "classify", outcome, step=3, error="diverged")
            else:
                metrics = {"tuning_top1": outcome[0], "top1": outcome[1], "top1_majority": 0.1}
                content = result(run_id, "classify", start, size, PARAMS[size], seed, metrics)
                content["config"] |= {spec.key: rate, "segment.base_lr": 0.1, "classify.tuning_images": 9}
                write_task(path, run_id, "classify", content)
            run = {"run_id": run_id, "label": label, "init": start, "values": {"model.size": size, "seed": seed}}
            run |= {"tasks": {"classify": {"params_backbone": PARAMS[size]}}}
            planned.append(run | ({"tuned": {spec.key: rate}} if spec.tuned else {}))
    plan = {"schema": 1, "study": "tuned", "grid": "model_size", "axes": ["model.size", "seed"], "runs": planned}
    write_json(path / "plan.json", plan)
    return path
