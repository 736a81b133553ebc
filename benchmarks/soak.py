"""Random ``kill -9`` of random ranks during a training: it must finish all the same, with the undisturbed losses.

python benchmarks/soak.py [kills=100] [ranks=2] [stage=2] [steps=1000] [every=5] [asynchronous=true] [ema=0.9] [seed=0]
                          [minutes=30] [folder=DIR] [--json]

Trains a tiny model twice with the same settings, once undisturbed and once killed ``kills`` times. The moments of the
kills are drawn uniformly over the steps, with a delay of up to a second, so that some fall into starting up, steps,
writing or committing; one rank in three kills is rank 0, one kill in four takes all ranks at once. Half of the other
times the ranks left over are given a second to notice, as a slow launcher would. Then the same command starts again.
The time is bounded: when it is over no more kills come, and the training has to finish.

The ranks are started from a process that has imported torch and DeepSpeed already (multiprocessing's fork server), or
most of the time would go into imports; everything else is the training command itself. Exit code 0 when the losses,
the steps logged and the final weights are those of the undisturbed run, bit for bit.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from command import read_settings, show

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from nepa_scale.distributed.processes import free_port  # noqa: E402  (after the path)

DEFAULTS = {"kills": "100", "ranks": "2", "stage": "2", "steps": "1000", "every": "5", "asynchronous": "true"} | {
    "ema": "0.9",
    "seed": "0",
    "minutes": "30",
    "folder": "",
}
LONGEST_DELAY_SECONDS = 1.0
STUCK_SECONDS = 300


@dataclass
class Outcome:
    """What became of the disturbed training."""

    starts: int = 0
    kills: int = 0
    moments: Counter[str] = field(default_factory=Counter)
    fallbacks: int = 0


def words(data_root: Path, run_dir: Path, settings: dict[str, str]) -> list[str]:
    """The training command."""
    return [
        "task=pretrain",
        "model.size=femto",
        "model.weight_init=xavier",
        "model.layer_scale_init=0.1",
        f"data.root={data_root}",
        f"run_dir={run_dir}",
        f"pretrain.steps={settings['steps']}",
        "pretrain.batch_size=8",
        f"pretrain.ema_decay={settings['ema']}",
        f"engine.ds_config=zero{settings['stage']}",
        f"checkpoint.every={settings['every']}",
        f"checkpoint.asynchronous={settings['asynchronous']}",
        "log.every=1",
        "log.tensorboard=false",
        "log.pictures=0",
    ]


def run_rank(command: Sequence[str], rank: int, ranks: int, port: int, log: Path) -> None:
    """One rank of the training command, in a process of its own."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    import torch

    from nepa_scale.train import main

    torch.set_num_threads(1)
    sys.exit(main(list(command)))


def start(command: Sequence[str], ranks: int, log: Path) -> list[ForkServerProcess]:
    """Start all ranks."""
    context = multiprocessing.get_context("forkserver")
    port = free_port()
    processes = [context.Process(target=run_rank, args=(command, rank, ranks, port, log)) for rank in range(ranks)]
    for process in processes:
        process.start()
    return processes


def steps_logged(task_dir: Path) -> int:
    """The last step in the log."""
    try:
        lines = (task_dir / "metrics.jsonl").read_bytes().split(b"\n")[:-1]
        return int(json.loads(lines[-1])["step"])
    except (OSError, IndexError, ValueError):
        return 0


def finish(processes: Sequence[ForkServerProcess]) -> None:
    """Wait for the end of a training. Raises ``RuntimeError`` when it fails."""
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"training ended with exit codes {[process.exitcode for process in processes]}")


def disturb(command: Sequence[str], task_dir: Path, ranks: int, settings: dict[str, str], log: Path) -> Outcome:
    """Run a training to its end with random kills in between."""
    draw, outcome = random.Random(int(settings["seed"])), Outcome()
    targets = sorted(draw.randrange(int(settings["steps"]) - 1) for _ in range(int(settings["kills"])))
    deadline = time.monotonic() + 60 * float(settings["minutes"])
    for target in targets:
        if time.monotonic() > deadline:
            break
        processes, started = start(command, ranks, log), time.monotonic()
        outcome.starts += 1
        while steps_logged(task_dir) < target:
            if any(process.exitcode is not None for process in processes):
                raise RuntimeError(f"a rank ended by itself; see {log}")
            if time.monotonic() - started > STUCK_SECONDS:
                raise RuntimeError(f"no step {target} within {STUCK_SECONDS} s; see {log}")
            time.sleep(0.002)
        time.sleep(draw.uniform(0, LONGEST_DELAY_SECONDS))
        outcome.moments[moment(task_dir, steps_logged(task_dir))] += 1
        victims = list(range(ranks)) if draw.random() < 0.25 else [draw.randrange(ranks)]
        for rank in victims:
            processes[rank].kill()
        outcome.kills += 1
        if draw.random() < 0.5:
            time.sleep(draw.uniform(0, LONGEST_DELAY_SECONDS))
        for process in processes:
            process.kill()
            process.join()
    finish(start(command, ranks, log))
    outcome.starts += 1
    outcome.fallbacks = log.read_text().count("trying the checkpoint before it")
    return outcome


def moment(task_dir: Path, step: int) -> str:
    """What the training is doing."""
    status = task_dir / "status.json"
    if any((task_dir / "checkpoints").glob("step_*.tmp")):
        return "while saving"
    running = status.is_file() and time.time() - (task_dir / "metrics.jsonl").stat().st_mtime < 0.5 if step else False
    return "between saves" if running else "while starting"


def losses(task_dir: Path) -> list[tuple[int, float]]:
    """Step and loss of every row of training."""
    rows = [json.loads(line) for line in (task_dir / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows if "loss" in row]


def measure(folder: Path, settings: dict[str, str]) -> dict[str, Any]:
    """Both trainings, compared."""
    from nepa_scale.data.prepare.digits import write_digits

    write_digits(folder / "data", num_train=96, num_validation=16)
    calm, wild = folder / "undisturbed", folder / "killed"
    ranks, log = int(settings["ranks"]), folder / "killed.log"
    before = time.monotonic()
    finish(start(words(folder / "data", calm, settings), ranks, folder / "undisturbed.log"))
    middle = time.monotonic()
    outcome = disturb(words(folder / "data", wild, settings), wild / "pretrain", ranks, settings, log)
    expected, found = losses(calm / "pretrain"), losses(wild / "pretrain")
    names = sorted(path.name for path in (calm / "pretrain").glob("*.safetensors"))
    same_files = all((calm / "pretrain" / n).read_bytes() == (wild / "pretrain" / n).read_bytes() for n in names)
    return {
        "ranks": ranks,
        "stage": int(settings["stage"]),
        "asynchronous": settings["asynchronous"] == "true",
        "steps": int(settings["steps"]),
        "kills": outcome.kills,
        **{name: outcome.moments[name] for name in ("while starting", "between saves", "while saving")},
        "starts": outcome.starts,
        "fallbacks": outcome.fallbacks,
        "rows_missing_or_double": len(set(dict(expected)) ^ set(dict(found))) + len(found) - len(dict(found)),
        "largest_loss_difference": max(abs(dict(found).get(step, 9e9) - loss) for step, loss in expected),
        "same_weights": same_files,
        "undisturbed_s": round(middle - before, 1),
        "killed_s": round(time.monotonic() - middle, 1),
    }


def main() -> int:
    """Soak, print the summary; 0 when nothing was lost."""
    settings, as_json = read_settings(__doc__ or "", DEFAULTS)
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["nepa_scale.training.trainer", "nepa_scale.tasks.pretrain"]
    )
    folder = Path(settings["folder"] or tempfile.mkdtemp())
    row = measure(folder, settings)
    if not settings["folder"]:
        shutil.rmtree(folder)
    show([row], as_json=as_json)
    return int(bool(row["rows_missing_or_double"] or row["largest_loss_difference"] or not row["same_weights"]))


if __name__ == "__main__":
    sys.exit(main())
