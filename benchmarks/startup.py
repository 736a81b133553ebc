"""How soon commands answer: help, a configuration error, and the first step of a demo pre-training.

python benchmarks/startup.py [REPEATS]

Each figure is the median wall time of a fresh process, beside the time the same interpreter takes to import torch.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parents[1]
TRAIN = str(REPOSITORY / "nepa_scale" / "train.py")
LAUNCH = str(REPOSITORY / "sweeps" / "launch.py")


def seconds(words: Sequence[str]) -> float:
    """Wall time of one process from start to end."""
    before = time.perf_counter()
    subprocess.run([sys.executable, *words], capture_output=True, check=False)
    return time.perf_counter() - before


def seconds_to_first_step(data_root: Path) -> float:
    """Wall time from the command to the line of its first step in ``metrics.jsonl``."""
    with tempfile.TemporaryDirectory() as folder:
        words = [TRAIN, "task=pretrain", "log.every=1", f"data.root={data_root}", f"run_dir={folder}/run"]
        metrics = Path(folder) / "run" / "pretrain" / "metrics.jsonl"
        before = time.perf_counter()
        process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not (metrics.is_file() and metrics.stat().st_size):
            if process.poll() is not None:
                raise RuntimeError(f"training ended before its first step (exit code {process.returncode})")
            time.sleep(0.01)
        taken = time.perf_counter() - before
        process.kill()
        process.wait()
        return taken


def main() -> None:
    """Measure everything and print the table."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare = ["-m", "nepa_scale.data.prepare", "digits", f"root={root}"]
        subprocess.run([sys.executable, *prepare], capture_output=True, check=True, cwd=REPOSITORY)
        cases = {
            "train.py --help": lambda: seconds([TRAIN, "--help"]),
            "train.py, misspelt key": lambda: seconds([TRAIN, "taks=pretrain"]),
            "launch.py --help": lambda: seconds([LAUNCH, "--help"]),
            "launch.py, unknown grid": lambda: seconds([LAUNCH, "grid=model_sizes"]),
            "train.py to its first step": lambda: seconds_to_first_step(root),
            "python -c 'import torch'": lambda: seconds(["-c", "import torch"]),
        }
        table = Table("command", "median s", "min", "max")
        for name, measure in cases.items():
            times = [measure() for _ in range(repeats)]
            table.add_row(name, *(f"{value:.2f}" for value in (statistics.median(times), min(times), max(times))))
        Console().print(table)


if __name__ == "__main__":
    main()
