"""How long a large study takes to plan, to put in line and to look at: 2,000 runs of three tasks on this machine.

python benchmarks/sweeps.py [RUNS]

The commands are those a person types. Every core is claimed by this process meanwhile, so that the study's queue takes
all tasks in and starts none. Targets (for 2,000 runs): plan below 10 s, in line below 60 s, status below 2 s, 1 GB.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from nepa_scale.run_dir.status import holder  # noqa: E402
from sweeps.local.leases import Leases  # noqa: E402
from sweeps.local.runner import queue_dir  # noqa: E402

SIZES = 4
TASKS = "study.tasks=[pretrain,classify,segment]"


def timed(words: list[str], folder: Path) -> tuple[float, float, float]:
    """Wall time (s), processor time (s) and peak memory (MB) of one command."""
    with (folder / "printed").open("w+") as printed:
        before = time.perf_counter()
        process = subprocess.Popen([sys.executable, *words], cwd=folder, stdout=printed, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        taken = time.perf_counter() - before
        printed.seek(0)
        if os.waitstatus_to_exitcode(status):
            raise RuntimeError(printed.read())
    return taken, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000


def main() -> None:
    """Measure the three commands and print them."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    scripts = {name: str(REPOSITORY / "sweeps" / f"{name}.py") for name in ("launch", "status")}
    words = ["grid=model_size", f"seeds={runs // SIZES}", "study.scratch_control=false", TASKS, "study_dir=out"]
    table = Table("command", "seconds", "of processor", "peak MB", title=f"{runs} runs of three tasks")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["TMPDIR"] = name
        if Leases(folder / f"nepa_scale-{psutil.Process().username()}").claim(["cores"], Fraction(1)) is None:
            raise RuntimeError("a fresh machine has no free cores")
        commands = {
            "plan (dry_run=true)": [scripts["launch"], *words, "dry_run=true"],
            "put in line (watch=false)": [scripts["launch"], *words, "watch=false"],
            "status": [scripts["status"], "out"],
            "status --json": [scripts["status"], "out", "--json"],
        }
        for title, command in commands.items():
            taken, worked, memory = timed(command, folder)
            table.add_row(title, f"{taken:.1f}", f"{worked:.1f}", f"{memory:.0f}")
        runner = holder(queue_dir(folder / "out"))
        if runner is None:
            raise RuntimeError("the queue is not there")
        process = psutil.Process(runner.pid)
        table.add_row("the queue itself", "", "", f"{process.memory_info().rss / 1e6:.0f}")
        process.send_signal(signal.SIGTERM)
        process.wait(120)
    Console().print(table)


if __name__ == "__main__":
    main()
