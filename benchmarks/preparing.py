"""How long preparing takes, by number of processes, and what share of a worker's time is decoding.

``python benchmarks/preparing.py [IMAGES]`` makes class folders of synthetic photographs (500x375 pixels) in a temporary
folder and prepares them.
"""

from __future__ import annotations

import cProfile
import io
import pstats
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from nepa_scale.data.prepare.class_folders import list_class_folders
from nepa_scale.data.prepare.listing import read_tree
from nepa_scale.data.prepare.shard import ShardTask, write_shard
from nepa_scale.distributed.processes import cores

REPOSITORY = Path(__file__).resolve().parents[1]


def photograph(seed: int) -> bytes:
    """An encoded picture of soft blotches and some grain."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(256, size=(24, 32, 3), dtype=np.uint8)).resize((500, 375))
    grain = rng.normal(0, 6, size=(375, 500, 3))
    pixels = np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_source(folder: Path, images: int) -> None:
    """Class folders with ``images`` training images and a few for validation."""
    pictures = [photograph(seed) for seed in range(50)]
    for split, count in (("train", images), ("val", 50)):
        for index in range(count):
            place = folder / split / f"class{index % 10}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{index:06d}.jpg").write_bytes(pictures[index % 50])


def decoding_share(source: Path, target: Path) -> float:
    """The part of a worker's time that decoding takes, over one shard."""
    task = ShardTask(target / "a.tar", list_class_folders(read_tree(source)).splits["train"][:1000], 0, None, False)
    write_shard(task)
    with cProfile.Profile() as profile:
        write_shard(task)
    stats = pstats.Stats(profile)
    decoding = sum(row[3] for key, row in stats.stats.items() if key[2] == "decode_rgb")  # type: ignore[attr-defined]
    return decoding / stats.total_tt  # type: ignore[attr-defined,no-any-return]


def main() -> None:
    """Measure and print."""
    images = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    table = Table("processes", "seconds", "images per second")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        write_source(source, images)
        share = decoding_share(source, Path(folder))
        for workers in sorted({1, cores()}):
            words = ["folder", f"source={source}", f"root={folder}/{workers}", "name=x", f"workers={workers}"]
            before = time.perf_counter()
            command = [sys.executable, "-m", "nepa_scale.data.prepare", *words]
            subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
            taken = time.perf_counter() - before
            table.add_row(str(workers), f"{taken:.1f}", f"{images / taken:.0f}")
    Console().print(table, f"decoding: {share:.0%} of a worker's time")


if __name__ == "__main__":
    main()
