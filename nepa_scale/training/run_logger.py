"""What a task records: metrics, trackers, progress bar and status while it trains, and ``result.json`` in the end."""

from __future__ import annotations

import errno
import functools
import json
import math
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from nepa_scale.config.schema import RunConfig
from nepa_scale.distributed.processes import process_age
from nepa_scale.distributed.world import World
from nepa_scale.perf.throughput import Throughput
from nepa_scale.placement.costs import FLOPS_CONVENTION
from nepa_scale.placement.resolved import ResolvedTask
from nepa_scale.run_dir.status import Status, now, read_status, write_status
from nepa_scale.training.trackers import TrackedTask, Trackers
from nepa_scale.utils.files import write_atomically, write_json
from nepa_scale.utils.progress import StepDisplay, logger

STATUS_INTERVAL_SECONDS = 2.0
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SHOWN = ("loss", "lr", "grad_norm", "images_per_second", "mfu")  # beside the progress bar


class RunLogger:
    """Rank 0 writes the records of a task; the loggers of the other ranks write nothing.

    Attributes:
        rows: those that earlier processes logged up to where this one begins; empty on the other ranks.
        replaced, skipped: images that were replaced and steps that were skipped by then.
        startup_seconds: how old this process is as it begins to train; None where that is not known.
    """

    def __init__(self, task_dir: Path, config: RunConfig, world: World, *, start: int, total_steps: int) -> None:
        """Continue the record of a task whose training goes on after step ``start``."""
        self._task_dir, self._total_steps = task_dir, total_steps
        self._batch_size = config.task_config().batch_size
        status = read_status(task_dir)
        self._attempt = 1 + (status.attempt if status is not None else 0)
        self.startup_seconds = process_age()
        self._started = self._status_written = time.perf_counter()
        self._log = None
        if world.is_main:
            self._log = MetricsLog(task_dir, resume_at=start, final_step=total_steps)
            self._log.send_to(Trackers(config.log.tracker_names(), TrackedTask(task_dir, config, self._log.rows)))
        self.rows: list[dict[str, Any]] = self._log.rows if self._log is not None else []
        self.replaced, self.skipped = int(self._largest("images_replaced")), int(self._largest("skipped_steps"))
        self._earlier_seconds = self._largest("elapsed_seconds")
        self._display = StepDisplay(f"{config.task} {config.model.size}", start, total_steps, shown=world.is_main)

    @property
    def seconds(self) -> float:
        """Time that all processes of the task took until now."""
        return self._earlier_seconds + time.perf_counter() - self._started

    def step(self, done: int) -> None:
        """Move the progress bar."""
        self._display.update(done, None)

    def write(self, done: int, metrics: dict[str, Any]) -> None:
        """Log a row of the state after step ``done``, without the metrics that are not finite after a skipped step."""
        if self._log is not None:
            row = {"step": done, "images_seen": done * self._batch_size}
            self._log.write(row | {name: value for name, value in metrics.items() if math.isfinite(value)})

    def write_step(self, done: int, metrics: dict[str, Any], problem: str | None) -> None:
        """Log a row of training, show it, and now and then bring the status up to date."""
        self.write(done, metrics)
        self._display.update(done, {name: metrics[name] for name in SHOWN if math.isfinite(metrics[name])})
        if time.perf_counter() - self._status_written > STATUS_INTERVAL_SECONDS:
            self.status("running", done, problem)

    def evaluated(self, done: int) -> bool:
        """Whether an evaluation after step ``done`` is on record; rank 0 alone knows."""
        return any(row["step"] == done and _is_evaluation(row) for row in self.rows)

    def status(self, state: str, step: int, problem: str | None = None) -> None:
        """Write how the task stands; ``problem``: what went wrong without ending it.

        A full disk is logged, and training goes on. Raises ``OSError`` for the state ``finished``.
        """
        self._status_written = time.perf_counter()
        if self._log is not None:
            status = Status(state, step, self._total_steps, self._attempt, problem)
            write = functools.partial(write_status, self._task_dir, status)
            write() if state == "finished" else self._log.tolerate(write)

    def make_durable(self) -> None:
        """Flush the log to disk, so that it survives a crash of the machine. Raises ``OSError`` where it cannot."""
        if self._log is not None:
            self._log.make_durable()

    def require_all_rows(self) -> None:
        """Raise ``OSError`` where rows cannot be written even now."""
        if self._log is not None:
            self._log.flush()

    def close(self) -> None:
        """Leave the terminal and the files as they should be."""
        self._display.close()
        if self._log is not None:
            result = self._task_dir / "result.json"
            self._log.close(result if result.is_file() else None)

    def _largest(self, name: str) -> float:
        return max((row.get(name, 0.0) for row in self.rows), default=0.0)


class MetricsLog:
    """Appends rows to ``metrics.jsonl``, one object a line, and sends them to the trackers.

    Rows for which the disk has no room are kept, and written with the next for which it has.
    On resume the rows that will be written again are dropped: those after the checkpoint's step, and a last
    evaluation whose result was not written.
    """

    def __init__(self, task_dir: Path, *, resume_at: int, final_step: int) -> None:
        self._path = task_dir / "metrics.jsonl"
        self._trackers: Trackers | None = None
        self.rows = [
            row
            for row in read_rows(self._path)
            if row["step"] <= resume_at and not (row["step"] == final_step and _is_evaluation(row))
        ]
        write_atomically(self._path, "".join(json.dumps(row) + "\n" for row in self.rows))
        self._file = self._path.open("ab", buffering=0)
        self._unwritten, self._has_failed = b"", False

    def send_to(self, trackers: Trackers) -> None:
        """Send the rows written from now on to ``trackers`` as well."""
        self._trackers = trackers

    def write(self, row: dict[str, Any]) -> None:
        """Append one row; it must have a ``step``."""
        self._unwritten += f"{json.dumps(row)}\n".encode()
        self.tolerate(self.flush)
        if self._trackers is not None:
            self._trackers.log(row)

    def flush(self) -> None:
        """Write what is not written yet; of a line that was cut off, the rest. Raises ``OSError`` where it cannot."""
        while self._unwritten:
            self._unwritten = self._unwritten[self._file.write(self._unwritten) :]

    def make_durable(self) -> None:
        """Flush to the disk itself. Raises ``OSError`` where that fails."""
        self.flush()
        os.fsync(self._file.fileno())

    def close(self, result: Path | None = None) -> None:
        """Flush and release the files; trackers get the task's ``result`` if it has one."""
        with suppress(OSError):  # whoever needs all rows has asked for them before
            self.flush()
        self._file.close()
        if self._trackers is not None:
            self._trackers.finish(result)

    def tolerate(self, write: Callable[[], None]) -> None:
        """Call ``write``, and go on where the disk is full, which need not end a training; log the first such time.

        Raises any other ``OSError``.
        """
        try:
            write()
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            if not self._has_failed:
                where, why = self._path.parent, error.strerror
                logger.error("%s: %s: the record of this training is written as soon as there is room", where, why)
            self._has_failed = True


def _is_evaluation(row: dict[str, Any]) -> bool:
    return any(name.startswith("eval_") for name in row)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The complete rows of a metrics file; a last line cut off by a kill is dropped."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


SCHEMA = 1
CODE = ("nepa_scale", "ds_configs")  # the folders that make results
RECORDED_PACKAGES = ("torch", "deepspeed", "timm", "webdataset")


def write_result(
    task_dir: Path,
    resolved: ResolvedTask,
    *,
    metrics: dict[str, float],
    details: dict[str, Any],
    validation_images: int,
    starts_finetuned: bool,
    source: Mapping[str, Any],
    params: int,
    throughput: Throughput,
    images_replaced: int,
    wall_seconds: float,
    startup_seconds: float | None,
) -> None:
    """Write ``result.json``; its presence is what makes a task's outcome count.

    ``source`` is what ``weights.initial`` says of the weights that the task started from.
    """
    config, cost, placement = resolved.config, resolved.cost, resolved.placement
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "run_id": config.run_id,
        "task": config.task,
        "init": config.init,
        "init_finetuned": starts_finetuned,
        **source,
        "config": config.flat(),
        "params_total": params,
        "params_backbone": cost.params_backbone,
        "steps": cost.steps,
        "images_seen": cost.images_seen,
        "unique_images": cost.unique_images,
        "images_replaced": images_replaced,
        "tokens_seen": cost.tokens_seen,
        "flops_train": cost.flops_train,
        "flops_convention": FLOPS_CONVENTION,
        "metrics": metrics,
        "details": details,
        "validation_images": validation_images,
        "seed": config.seed,
        "wall_seconds": round(wall_seconds, 3),
        "startup_seconds": None if startup_seconds is None else round(startup_seconds, 3),
        "device_kind": _device_kind(),
        "device_count": placement.world_size,
        "peak_memory_bytes": throughput.memory_peak_bytes,
        "throughput": throughput.summary(),
        "placement": {
            "zero_stage": placement.zero_stage,
            "micro_batch_size": placement.micro_batch_size,
            "accumulation": placement.accumulation,
            "activation_checkpointing": placement.activation_checkpointing,
            "memory_bytes": placement.memory.total,
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in RECORDED_PACKAGES},
        },
        "commit": _commit(),
        "finished_at": now(),
    }
    write_json(task_dir / "result.json", content)


def _device_kind() -> str:
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"cpu ({platform.machine()}, {os.environ.get('OMP_NUM_THREADS', '?')} threads)"


def _commit() -> str:
    """The commit of this checkout, with "-dirty" where the code is not that of the commit; unknown for an installed
    package, whatever repository it is installed in."""
    if shutil.which("git") is None:
        return "unknown"
    this = Path(__file__)
    git = ["git", "--no-optional-locks", "-C", str(this.parent)]
    tracked = subprocess.run([*git, "ls-files", "--error-unmatch", this.name], capture_output=True, check=False)
    if tracked.returncode:
        return "unknown"
    status = [*git, "status", "--porcelain", "--", *(f":/{folder}" for folder in CODE)]
    commit, changed = (
        subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        for command in ([*git, "rev-parse", "HEAD"], status)
    )
    return f"{commit}-dirty" if changed else commit
