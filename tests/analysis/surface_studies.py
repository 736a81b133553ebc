"""Studies over parameters and data whose error follows a surface that is known in advance."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from study_files import result, write_json, write_task

E, A, B, ALPHA, BETA = 0.05, 6.0, 40.0, 0.25, 0.35
FLOPS_PER = 6.3
Data = Callable[[int], list[float]]


def write(path: Path, sizes: list[int], data: Data, noise: float = 0.003) -> Path:
    """A study of ``sizes``, each on ``data(size)`` pretraining tokens."""
    random, planned = np.random.default_rng(0), []
    for params in sizes:
        for tokens in data(params):
            run_id = f"n{params}-d{tokens:.0f}"
            error = (E + A * params**-ALPHA + B * tokens**-BETA) * math.exp(random.normal(0, noise))
            pretrain = result(run_id, "pretrain", "pretrain", str(params), params, 0, {"skill": 0.5})
            pretrain |= {"tokens_seen": round(tokens), "flops_train": FLOPS_PER * params * tokens}
            write_task(path, run_id, "pretrain", pretrain)
            top1 = {"top1": 1 - error, "top1_majority": 0.1}
            write_task(path, run_id, "classify", result(run_id, "classify", "pretrain", str(params), params, 0, top1))
            planned.append({"run_id": run_id, "label": run_id, "init": "pretrain", "values": {}, "tasks": {}})
    axes = ["model.size", "pretrain.num_images"]
    write_json(path / "plan.json", {"schema": 1, "study": "s", "grid": "g", "axes": axes, "runs": planned})
    return path
