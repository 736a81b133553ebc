"""Acceptance on one GPU in one go: is training right there, how fast is it, how much memory does it take?

python benchmarks/gpu.py [minutes=9] [out=gpu] [scale=full] [only=]

Needs a machine with torch and this project's dependencies, no data. Every measurement is a process of its own, so that
one that fails or runs out of memory costs itself alone; those worth most come first, and none is started that the time
left is not likely to hold. Those that measure no time run side by side, as many as the cores allow. After each, ``out``
holds ``results.json`` and ``page.md``, complete and readable, with "not measured" in the cells that are still empty;
the same command goes on from there. ``scale=tiny`` does the same with models of a few thousand parameters, on a CPU as
well. ``only=speed,resume`` takes the measurements of these sections.

- speed: images/s, MFU, memory (predicted and measured) and waits for the device per step, of pre-training on random
  224-px images at patch 14, beside plain DDP under autocast
- losses: 20 steps of pre-training on the embedded digits, against fp32 on the CPU
- resume: the same steps in two halves, against the same steps at once
- non-finite: a step with a NaN image changes no weight
- decoding: images/s and the time waited for data, with JPEGs of 256 px read, decoded and cropped
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpu_page import page

REPOSITORY = Path(__file__).resolve().parents[1]
CELLS = Path(__file__).with_name("gpu_cells.py")
CORES_OF_A_TRAINING = 2
DEFAULTS = {"minutes": "9", "out": "gpu", "scale": "full", "only": ""}


@dataclass(frozen=True)
class Cell:
    """One measurement: its section, what the page calls it, arguments for the process, and seconds it likely takes."""

    section: str
    name: str
    seconds: float
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def timed(self) -> bool:
        """Whether it measures time, and so has the machine for itself."""
        return self.section in ("speed", "decoding")


@dataclass(frozen=True)
class Scale:
    """Sizes of the models, images and batches of a run of this script."""

    batches: dict[str, int]
    main_size: str
    zero_size: str
    image_size: int
    patch_size: int
    steps: int
    losses_size: str
    jpeg_size: int
    jpeg_images: int


SCALES = {
    "full": Scale(
        batches={"small": 512, "base": 256, "large": 128, "huge": 128},
        main_size="base",
        zero_size="large",
        image_size=224,
        patch_size=14,
        steps=12,
        losses_size="nano",
        jpeg_size=256,
        jpeg_images=2048,
    ),
    "tiny": Scale(
        batches={"atto": 8, "femto": 8},
        main_size="atto",
        zero_size="femto",
        image_size=32,
        patch_size=8,
        steps=2,
        losses_size="atto",
        jpeg_size=40,
        jpeg_images=64,
    ),
}


def cells(scale: Scale) -> Iterator[Cell]:
    """All measurements, those worth most first."""
    yield from (losses(scale, precision, compiled=False) for precision in ("fp32", "bf16-autocast", "bf16"))
    for precision in ("bf16-autocast", "bf16"):
        yield Cell("non-finite", precision, 25, small_training(scale, precision))
    for precision in ("bf16-autocast", "bf16", "fp32"):
        yield Cell("resume", precision, 60, small_training(scale, precision))
        yield losses(scale, precision, compiled=True)
    main, large = scale.main_size, scale.zero_size
    yield speed(scale, large, "ddp", "bf16-autocast", compiled=False)
    for ds_config in ("zero1", "zero3"):
        yield speed(scale, large, "engine", "bf16-autocast", compiled=False, ds_config=ds_config)
    for size in list(scale.batches)[::-1]:
        yield speed(scale, size, "engine", "bf16", compiled=True)
    yield Cell("decoding", "JPEG", 60, decoding(scale))
    for ds_config in ("zero1", "zero3", "zero3_offload"):
        yield speed(scale, large, "engine", "bf16", compiled=False, ds_config=ds_config)
    yield speed(scale, main, "engine", "bf16-autocast", compiled=True, ds_config="zero0")
    for ds_config in ("zero0", "zero2"):
        yield speed(scale, large, "engine", "bf16-autocast", compiled=False, ds_config=ds_config)
    yield speed(scale, large, "engine", "bf16", compiled=False, ds_config="zero2")
    yield speed(scale, main, "ddp", "bf16-autocast", compiled=False)
    yield speed(scale, main, "engine", "bf16", compiled=False)
    yield speed(scale, main, "engine", "fp32", compiled=True)


def speed(
    scale: Scale, size: str, contestant: str, precision: str, *, compiled: bool, ds_config: str = "zero1"
) -> Cell:
    """A measurement of training steps of one size."""
    words = [size, contestant if contestant == "ddp" else ds_config, precision, *(["compiled"] if compiled else [])]
    arguments = {
        "size": size,
        "contestant": contestant,
        "precision": precision,
        "compiled": compiled,
        "ds_config": ds_config,
        "batch": scale.batches[size],
        "image_size": scale.image_size,
        "patch_size": scale.patch_size,
        "steps": scale.steps,
    }
    return Cell("speed", ", ".join(words), 45 if compiled else 20, arguments)


def losses(scale: Scale, precision: str, *, compiled: bool) -> Cell:
    """A comparison of 20 losses with those of fp32 on the CPU."""
    name = f"{precision}, compiled" if compiled else precision
    return Cell("losses", name, 45, small_training(scale, precision) | {"compiled": compiled})


def small_training(scale: Scale, precision: str) -> dict[str, Any]:
    """Arguments of the measurements that train the small model of ``scale``."""
    return {"size": scale.losses_size, "precision": precision}


def decoding(scale: Scale) -> dict[str, Any]:
    """Arguments of the measurement with images that are read and decoded."""
    return {
        "size": scale.main_size,
        "batch": scale.batches[scale.main_size],
        "image_size": scale.image_size,
        "patch_size": scale.patch_size,
        "jpeg_size": scale.jpeg_size,
        "images": scale.jpeg_images,
    }


def identity(cell: dict[str, Any]) -> str:
    """What two records of one measurement have in common."""
    return json.dumps([cell["section"], cell["name"], cell["arguments"]], sort_keys=True)


class Record:
    """What has been measured so far, in ``results.json`` and ``page.md``."""

    def __init__(self, folder: Path, planned: list[Cell]) -> None:
        self._folder = folder
        self._content: dict[str, Any] = {
            "machine": {},
            "cells": [asdict(cell) | {"state": "not measured", "result": None} for cell in planned],
        }
        folder.mkdir(parents=True, exist_ok=True)
        self._take_over()
        self.write()

    def _take_over(self) -> None:
        """Keep what an earlier command has measured in the same folder."""
        path = self._folder / "results.json"
        earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"machine": {}, "cells": []}
        measured = {identity(cell): cell for cell in earlier["cells"] if cell["state"] == "measured"}
        self._content["cells"] = [measured.get(identity(cell), cell) for cell in self._content["cells"]]
        self._content["machine"] = earlier["machine"]

    def is_measured(self, index: int) -> bool:
        """Whether a cell has its values."""
        return bool(self._content["cells"][index]["state"] == "measured")

    def put(self, index: int, state: str, result: dict[str, Any] | None) -> None:
        """Set one cell; ``state`` is ``measured`` or why it is empty."""
        self._content["cells"][index] |= {"state": state, "result": result}
        if result is not None and "machine" in result:
            self._content["machine"] |= result.pop("machine")
        self.write()

    def write(self) -> None:
        """Bring both files up to date; a reader never sees half of one."""
        for name, text in (("results.json", json.dumps(self._content, indent=1)), ("page.md", page(self._content))):
            temporary = self._folder / f".{name}"
            temporary.write_text(text + "\n", encoding="utf-8")
            temporary.replace(self._folder / name)


Outcome = tuple[int, str, dict[str, Any] | None]


def measured(cells: Sequence[tuple[int, Cell]], folder: Path, end: float, at_once: int) -> Iterator[Outcome]:
    """Run cells, so many at a time, until the clock shows ``end``; of each that was started its number, state, result.

    A cell that the time left is not likely to hold is left out: a shorter one may still find time.
    """
    waiting, running = list(cells), dict[int, Running]()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                index, cell = waiting.pop(0)
                if (left := end - time.monotonic()) >= cell.seconds:
                    print(f"{cell.section}: {cell.name} ({left:.0f} s left)", flush=True)
                    running[index] = Running(cell, folder, index)
            for index in [index for index, process in running.items() if process.ended() or time.monotonic() > end]:
                yield index, *running.pop(index).outcome()
            time.sleep(0.05)
    finally:
        for process in running.values():
            process.outcome()


class Running:
    """The process of one cell, in a process group of its own."""

    def __init__(self, cell: Cell, folder: Path, index: int) -> None:
        self._cell, self._log = cell, folder / "log.txt"
        self._output, self._result = (folder / f".cell-{index}.{ending}" for ending in ("txt", "json"))
        self._result.unlink(missing_ok=True)
        arguments = json.dumps({**cell.arguments, "folder": str(folder)})
        command = [sys.executable, str(CELLS), cell.section, arguments, str(self._result)]
        with self._output.open("w", encoding="utf-8") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)

    def ended(self) -> bool:
        """Whether the process is over."""
        return self._process.poll() is not None

    def outcome(self) -> tuple[str, dict[str, Any] | None]:
        """State and result, where the process is over; else it is stopped. Its output goes into the log."""
        code = self._process.poll()
        if code is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"\n== {self._cell.section}: {self._cell.name}\n{self._output.read_text(encoding='utf-8')}")
        self._output.unlink()
        if code is None:
            return "not measured: it took longer than the time left", None
        if code or not self._result.is_file():
            return f"failed with exit code {code}; see log.txt", None
        result = json.loads(self._result.read_text(encoding="utf-8"))
        self._result.unlink()
        return "measured", result


def main(arguments: list[str]) -> int:
    """Measure what the time allows."""
    # Not by command.read_settings: that module keeps the processes below it to CPUs.
    given = dict(argument.partition("=")[::2] for argument in arguments)
    unknown = [key for key in given if key not in DEFAULTS]
    settings = DEFAULTS | given
    if unknown or settings["scale"] not in SCALES:
        print(f"error: give key=value with keys {', '.join(DEFAULTS)}; scale is full or tiny", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    end = time.monotonic() + 60 * float(settings["minutes"])
    folder, sections = Path(settings["out"]), settings["only"].split(",")
    planned = [cell for cell in cells(SCALES[settings["scale"]]) if settings["only"] == "" or cell.section in sections]
    record = Record(folder, planned)
    missing = [(index, cell) for index, cell in enumerate(planned) if not record.is_measured(index)]
    try:
        for timed in (False, True):
            at_once = 1 if timed else max(1, len(os.sched_getaffinity(0)) // CORES_OF_A_TRAINING)
            for index, *outcome in measured([item for item in missing if item[1].timed is timed], folder, end, at_once):
                record.put(index, *outcome)
    except KeyboardInterrupt:
        return 130
    print((folder / "page.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
