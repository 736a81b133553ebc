"""What a number format costs in loss: paired pre-trainings that differ in engine.precision alone.

python benchmarks/precision.py [precisions=fp32,bf16-autocast,bf16] [size=femto] [steps=2000] [seeds=6]
                               [batch_size=16] [base_lr=3e-3] [layer_scale_init=1e-5] [out=] [--json]

For each seed, pre-trainings on the embedded digits (32 pixels, patch 8) with the same first weights, images and rates
in each precision, one after another on one CPU rank. A row is a pair of precisions: the mean over seeds of the
difference of training loss, with its standard error, over the first 40 steps and over the last tenth of them, and of
loss and skill in the evaluation at the end: losses alone cannot be compared once the learned targets differ. A higher
loss or a lower skill is worse. ``out`` keeps the run directories; what is finished there is not trained again, so that
the same command with fewer ``seeds`` shows what a longer one has so far.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from command import read_settings, show

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from nepa_scale.data.prepare.digits import write_digits  # noqa: E402  (after the path)

FIRST_STEPS, LAST_PART = 40, 10
MEASURES = ("eval_loss", "eval_skill")
DEFAULTS = {
    "precisions": "fp32,bf16-autocast,bf16",
    "size": "femto",
    "steps": "2000",
    "seeds": "6",
    "batch_size": "16",
    "base_lr": "3e-3",
    "layer_scale_init": "1e-5",
    "out": "",
}


def train(settings: dict[str, str], folder: Path, seed: int, precision: str) -> None:
    """Pre-train in a process of its own, unless that has been done."""
    run_dir = folder / f"{precision}-{seed}"
    if (run_dir / "pretrain" / "result.json").is_file():
        return
    words = [
        "task=pretrain",
        f"model.size={settings['size']}",
        f"model.layer_scale_init={settings['layer_scale_init']}",
        f"engine.precision={precision}",
        "engine.ds_config=auto",
        "engine.compile=false",
        f"seed={seed}",
        f"pretrain.steps={settings['steps']}",
        f"pretrain.batch_size={settings['batch_size']}",
        f"pretrain.base_lr={settings['base_lr']}",
        f"data.root={folder / 'data'}",
        f"run_dir={run_dir}",
        "log.every=1",
        "log.tensorboard=false",
        "log.pictures=0",
        "checkpoint.every=1000",
    ]
    command = [sys.executable, str(REPOSITORY / "nepa_scale" / "train.py"), *words]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def losses(folder: Path, seed: int, precision: str) -> dict[str, float]:
    """The mean loss of the first steps and of the last ones, and loss and skill of the evaluation."""
    lines = (folder / f"{precision}-{seed}" / "pretrain" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    training = [row["loss"] for row in rows if "loss" in row]
    return {
        "first": statistics.fmean(training[:FIRST_STEPS]),
        "last": statistics.fmean(training[-(len(training) // LAST_PART) :]),
        **{name: [row[name] for row in rows if name in row][-1] for name in MEASURES},
    }


def compared(one: str, other: str, found: dict[tuple[str, int], dict[str, float]], seeds: int) -> dict[str, Any]:
    """The row of a pair of precisions."""
    row: dict[str, Any] = {"precision": one, "less": other, "seeds": seeds}
    for name in ("first", "last", *MEASURES):
        differences = [found[one, seed][name] - found[other, seed][name] for seed in range(seeds)]
        error = statistics.stdev(differences) / math.sqrt(seeds) if seeds > 1 else math.nan
        row |= {name: round(statistics.fmean(differences), 6), f"{name}_error": round(error, 6)}
        if name in MEASURES:
            row[f"{name}_by_seed"] = " ".join(f"{difference:+.3f}" for difference in differences)
    return row


def main() -> None:
    """Train what is missing and print a row for each pair."""
    settings, as_json = read_settings(__doc__ or "", DEFAULTS)
    precisions, seeds = settings["precisions"].split(","), int(settings["seeds"])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(settings["out"] or temporary).resolve()
        write_digits(folder / "data", num_train=4096, num_validation=512)
        for seed, precision in itertools.product(range(seeds), precisions):
            train(settings, folder, seed, precision)
        found = {
            (precision, seed): losses(folder, seed, precision) for seed in range(seeds) for precision in precisions
        }
    pairs = itertools.combinations(reversed(precisions), 2)
    show([compared(one, other, found, seeds) for one, other in pairs], as_json=as_json)


if __name__ == "__main__":
    main()
