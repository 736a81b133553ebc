"""What it takes to plan an epoch of ImageNet: 1,281,167 samples, in 1,024 shards and in 64.

python benchmarks/imagenet_index.py [--json]

The shards are empty files with a made-up index beside them. A fresh process opens the data set (index loaded, every
shard looked at), plans an epoch, and takes the first batch of one rank of eight; its memory is counted beyond what the
imports need.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from command import show

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from nepa_scale.data.index import INDEX_FOLDER, SplitIndex, save_index  # noqa: E402  (after the path)
from nepa_scale.data.info import make_info  # noqa: E402
from nepa_scale.data.sampler import SampleOrder, micro_batches  # noqa: E402
from nepa_scale.data.shard_index import SAMPLE_TYPE  # noqa: E402
from nepa_scale.data.sources import open_source  # noqa: E402

SAMPLES = 1_281_167
SPLITS = {"train": SAMPLES, "validation": 50_000}


def make(root: Path, num_shards: int) -> None:
    """Write the data set ``root/made-up``: empty shards, ``_info.json`` and an index."""
    folder = root / "made-up"
    folder.mkdir(parents=True)
    classes = [str(number) for number in range(1000)]
    info = make_info("made-up", split_sizes=SPLITS, shard_size=-(-SAMPLES // num_shards), class_names=classes)
    (folder / "_info.json").write_text(json.dumps(info))
    for split, contents in info["splits"].items():
        paths = [folder / filename for filename in contents["filenames"]]
        for path in paths:
            path.touch()
        numbers = np.arange(contents["num_samples"])
        index = SplitIndex(
            keys=np.char.add("n01440764_", numbers.astype(str)).astype(np.bytes_),
            samples=np.zeros(len(numbers), SAMPLE_TYPE),
            lengths=np.array(contents["shard_lengths"]),
            sizes=np.zeros(len(paths), dtype=np.int64),
            mtimes=np.array([path.stat().st_mtime_ns for path in paths]),
        )
        save_index(folder / INDEX_FOLDER / f"{split}.npz", index)


def plan(root: Path) -> dict[str, float]:
    """Seconds and MiB from a closed data set to the places of the first batch."""
    before, start = peak_mib(), time.perf_counter()
    source = open_source(root, "made-up", "train")
    opened = time.perf_counter() - start
    order = SampleOrder(np.bincount(source.shard_of).tolist(), seed=0)
    first = micro_batches(order, 0, batch_size=4096, micro_batch_size=512, rank=3, world_size=8)
    assert len(first[0]) == 512
    return {
        "open_s": round(opened, 3),
        "open_and_plan_s": round(time.perf_counter() - start, 3),
        "memory_mib": round(peak_mib() - before, 1),
    }


def peak_mib() -> float:
    """Most memory that this process has used; getrusage would also count what its parent had before."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    """Measure in fresh processes and print the table, or the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plan", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plan:
        print(json.dumps(plan(options.plan)))
        return
    rows = []
    for num_shards in (64, 1024):
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), num_shards)
            words = [sys.executable, __file__, "--plan", folder]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            rows.append({"samples": SAMPLES, "shards": num_shards, **json.loads(done.stdout)})
    show(rows, as_json=options.json)


if __name__ == "__main__":
    main()
