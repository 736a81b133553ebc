"""Time and memory of the report of a large study: 2,000 runs of three tasks, 5,000 logged steps each.

python benchmarks/report.py [runs=2000] [steps=5000] [folder=DIR]

Writes the study (6 GB) into a temporary folder, runs the command on it, and prints seconds and peak memory.
The logs are as wide as the trainer's: 19 values, 560 bytes a line.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SIZES, RATES = 10, 20
"""Of a grid of sizes and learning rates; what is left of the runs are seeds."""
TASKS = ("pretrain", "classify", "segment")
WIDTH = (
    *("lr", "grad_norm", "images_per_second", "flops_per_second", "mfu", "hfu", "data_wait", "communication"),
    *("memory_peak_bytes", "images_replaced", "skipped_steps", "elapsed_seconds", "loss_spikes"),
    *("target_std", "prediction_std", "neighbour_cosine"),
)
EVALUATE_EVERY = 100


def main(words: list[str]) -> None:
    """Write the study, make its report, and print the cost."""
    given = dict(word.split("=", 1) for word in words)
    runs, steps = int(given.get("runs", 2000)), int(given.get("steps", 5000))
    with tempfile.TemporaryDirectory(dir=given.get("folder")) as folder:
        study = Path(folder) / "study"
        started = time.perf_counter()
        size = write_study(study, runs, steps)
        print(f"{runs} runs x {len(TASKS)} tasks, {steps} logged steps, {size / 1e9:.2f} GB of logs", end=" ")
        print(f"(written in {time.perf_counter() - started:.0f} s)")
        started = time.perf_counter()
        command = [sys.executable, str(ROOT / "analysis" / "report.py"), str(study)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        page = (study / "report.html").stat().st_size
    print(f"report: {seconds:.1f} s ({used.ru_utime + used.ru_stime:.1f} s of processor time),", end=" ")
    print(f"peak memory {used.ru_maxrss / 1e6:.2f} GB, page {page / 1e6:.1f} MB")


def write_study(study: Path, runs: int, steps: int) -> int:
    """Write plan and runs; returns the bytes of the logs."""
    random = np.random.default_rng(0)
    planned, total = [], 0
    logs = [log(random, steps, final) for final in np.linspace(-0.6, -0.9, SIZES)]
    for i in range(runs):
        size, rate, seed = i % SIZES, i // SIZES % RATES, i // (SIZES * RATES)
        run_id, values = (
            f"run-{i:05}",
            {"model.size": f"size{size}", "pretrain.base_lr": 1e-4 * 1.3**rate, "seed": seed},
        )
        label = f"size{size} base_lr={values['pretrain.base_lr']:.2g}"
        error = 4.0 * params(size) ** -0.2 * (1 + 0.01 * (rate - 8) ** 2) * np.exp(random.normal(0, 0.01))
        for task in TASKS:
            folder = study / "runs" / run_id / task
            folder.mkdir(parents=True)
            (folder / "status.json").write_text(
                json.dumps({"state": "finished", "step": steps, "steps_total": steps, "attempt": 1, "error": None})
            )
            (folder / "result.json").write_text(json.dumps(result(run_id, task, params(size), values, float(error))))
        total += (study / "runs" / run_id / "pretrain" / "metrics.jsonl").write_bytes(logs[size])
        tasks = {key: {"params_backbone": params(size), "flops": 1000000000000.0, "seconds": 60} for key in TASKS}
        planned.append({"run_id": run_id, "label": label, "init": "pretrain", "values": values, "tasks": tasks})
    axes = ["model.size", "pretrain.base_lr", "seed"]
    plan = {"schema": 1, "study": "large", "grid": "lr", "axes": axes, "runs": planned}
    (study / "plan.json").write_text(json.dumps(plan))
    return total


def params(size: int) -> int:
    """Backbone parameters of the n-th size."""
    return round(25_000 * 2.5**size)


def log(random: np.random.Generator, steps: int, final: float) -> bytes:
    """A metrics.jsonl as the trainer writes it."""
    lines = []
    for step in range(1, steps + 1):
        loss = final + 0.5 * np.exp(-step / 500) + random.normal(0, 0.01)
        row = {"step": step, "images_seen": 32 * step, "loss": loss}
        row |= dict(zip(WIDTH, random.random(len(WIDTH)).tolist(), strict=True))
        lines.append(json.dumps(row))
        if step % EVALUATE_EVERY == 0:
            lines.append(json.dumps({"step": step, "images_seen": 32 * step, "eval_skill": -loss / 2}))
    return ("\n".join(lines) + "\n").encode()


def result(run_id: str, task: str, size: int, values: dict[str, Any], error: float) -> dict[str, Any]:
    """A result.json with as many settings and metrics as a real one."""
    metrics: dict[str, float] = {"loss": error}
    if task == "pretrain":
        metrics |= {"skill": 1 - 1.2 * error, "copy_baseline": 0.6, "mean_baseline": 0.4, "self_cosine": 0.5}
        metrics |= {"effective_rank_embeddings": 12 / error, "effective_rank_outputs": 9 / error}
    else:
        metrics |= {"top1": 1 - error, "top1_majority": 0.1} if task == "classify" else {"miou": 1 - error}
    config = {f"section.setting_{i}": i for i in range(150)} | values
    return {
        "schema": 1,
        "run_id": run_id,
        "task": task,
        "init": "pretrain",
        "config": config,
        "metrics": metrics,
        "params_total": size + 10_000,
        "params_backbone": size,
        "images_seen": 160_000,
        "unique_images": 4000,
        "tokens_seen": 160_000 * 64,
        "flops_train": 6.0 * size * 160_000 * 64,
        "flops_convention": "mul-add = 2",
        "seed": values["seed"],
        "wall_seconds": 60.0,
        "device_kind": "cpu",
        "device_count": 1,
        "peak_memory_bytes": 10**9,
        "versions": {"torch": "2.9.0"},
        "commit": "0123abc",
        "finished_at": None,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
