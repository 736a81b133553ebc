"""What a study's task costs beside its training: forked by the queue's server, and as a fresh process, in turn.

python benchmarks/task_overhead.py [repeats=5] [steps=8] [--json]

The overhead of a task is the time from its start to the end of its process, without the seconds of training,
evaluation, weights and pictures that its result states. The smallest model classifies digits.
"""

from __future__ import annotations

import functools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from command import read_settings, show  # noqa: E402

from nepa_scale.config import overrides  # noqa: E402
from nepa_scale.data.prepare.digits import write_digits  # noqa: E402
from nepa_scale.utils.files import read_json  # noqa: E402
from sweeps.jobs.jobs import Job  # noqa: E402
from sweeps.jobs.task import run_task  # noqa: E402
from sweeps.local import processes  # noqa: E402
from sweeps.local.processes import ForkServer, fork_server  # noqa: E402
from sweeps.plan.machine import Slots  # noqa: E402

SLOT = Slots(1, int(os.environ["OMP_NUM_THREADS"]), ())


def overhead(run_dir: Path, words: list[str], server: ForkServer | None) -> tuple[float, float]:
    """Seconds of a task beside its training, and the part of them before its first step."""
    overrides.save(overrides.parse([*words, f"run_dir={run_dir}"]), run_dir / "config.yaml")
    function = functools.partial(run_task, str(run_dir), "classify")
    job = Job(key="classify", function=function, folder=run_dir / "classify" / "submitit", after=(), cost=0.0)
    started = time.perf_counter()
    handle = processes.start(job, SLOT, (), server)
    while not handle.done():
        time.sleep(0.005)
    taken = time.perf_counter() - started
    error = processes.last_words(handle)
    if error is not None:
        raise RuntimeError(error)
    result = read_json(run_dir / "classify" / "result.json")
    return taken - result["wall_seconds"], result["startup_seconds"]


def main() -> None:
    """Measure both ways in turn and print medians, with the ratio of the overheads."""
    settings, as_json = read_settings(__doc__, {"repeats": "5", "steps": "8"})
    with tempfile.TemporaryDirectory() as folder, fork_server(SLOT) as server:
        root = Path(folder)
        write_digits(root / "data", num_train=256, num_validation=64, shard_size=64)
        words = [
            "task=classify",
            "init=scratch",
            "model.size=femto",
            "model.patch_size=8",
            f"data.root={root / 'data'}",
        ]
        words += ["classify.image_size=32", "classify.batch_size=32", f"classify.steps={settings['steps']}"]
        started = time.perf_counter()
        if server is not None:
            server.wait()
        loading = time.perf_counter() - started
        ways: dict[str, ForkServer | None] = {"forked": server, "fresh process": None}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for number in range(int(settings["repeats"])):
            for name, its_server in ways.items():
                found[name].append(overhead(root / name.split()[0] / str(number), words, its_server))
    medians = {
        name: [statistics.median(column) for column in zip(*values, strict=True)] for name, values in found.items()
    }
    usual = medians["fresh process"][0]
    rows = [
        {
            "task": name,
            "overhead s": f"{whole:.2f}",
            "before the first step s": f"{before:.2f}",
            "of a fresh process": f"{whole / usual:.2f}",
            "once per study s": f"{loading:.1f}" if name == "forked" else "",
        }
        for name, (whole, before) in medians.items()
    ]
    show(rows, as_json=as_json)


if __name__ == "__main__":
    main()
