"""Studies over learning rates, and over sizes at equal compute, whose best values are known in advance."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from study_files import result, write_json, write_status, write_task

RATES = (1e-3, 3e-3, 1e-2, 3e-2)


def write_rates(path: Path) -> Path:
    """Three sizes at four rates, best at 3e-3, 1e-2 and 3e-2 in turn; the smallest diverges at the highest rate."""
    planned = []
    for place, (size, params) in enumerate({"a": 10_000, "b": 100_000, "c": 1_000_000}.items()):
        for i, rate in enumerate(RATES):
            run_id = f"{size}-{i}"
            error = 0.5 / (place + 1) * (1 + 0.1 * (i - 1 - place) ** 2)
            planned.append({"run_id": run_id, "label": f"{size} base_lr={rate:g}", "init": "pretrain"})
            planned[-1] |= {"values": {"model.size": size, "pretrain.base_lr": rate}, "tasks": {"classify": {}}}
            if (size, i) == ("a", 3):
                write_status(path / "runs" / run_id / "classify", "failed", 40, error="the loss is not finite")
                continue
            outcome = result(run_id, "classify", "pretrain", size, params, 0, {"top1": 1 - error, "top1_majority": 0.1})
            write_task(path, run_id, "classify", outcome)
    axes = ["model.size", "pretrain.base_lr"]
    write_json(path / "plan.json", {"schema": 1, "study": "rates", "grid": "lr", "axes": axes, "runs": planned})
    return path


def write_isoflop(path: Path, scatter: float = 0, centre: float = 1) -> Path:
    """Errors that are parabolas in log N at four budgets, with known minima, up and down by ``scatter`` in turn."""
    planned: list[dict[str, Any]] = []
    for budget in (1e12, 1e13, 1e14, 1e15):
        best = 1e4 * (budget / 1e12) ** 0.5
        for place, factor in enumerate((0.1, 0.4, 1.5, 6.0, 9.0)):
            params = round(best * factor / centre)
            tokens = budget / (6 * params)
            error = 0.2 + 0.01 * math.log(params / best) ** 2 + scatter * (-1) ** place
            run_id = f"n{params}-c{budget:.0e}".replace("+", "")
            pretrain = result(run_id, "pretrain", "pretrain", str(params), params, 0, {"skill": 0.5})
            write_task(path, run_id, "pretrain", pretrain | {"tokens_seen": round(tokens), "flops_train": budget})
            outcome = result(run_id, "classify", "pretrain", str(params), params, 0, {"top1": 1 - error})
            write_task(path, run_id, "classify", outcome)
            planned.append({"run_id": run_id, "label": run_id, "init": "pretrain"})
            planned[-1] |= {"values": {"model.size": str(params)}, "tasks": {}}
    axes = ["model.size", "pretrain.num_images"]
    write_json(path / "plan.json", {"schema": 1, "study": "s", "grid": "isoflop", "axes": axes, "runs": planned})
    return path
