"""Weights & Biases, online or offline (``WANDB_MODE=offline``, then ``wandb sync``)."""

from __future__ import annotations

import json
import os
import struct
import uuid
from collections.abc import Iterator
from pathlib import Path

import wandb
from wandb.proto import wandb_internal_pb2

from nepa_scale.training.trackers import Record, TrackedTask, Tracker
from nepa_scale.utils.files import write_atomically

SECONDS_TO_CONNECT = 30


class WeightsAndBiases(Tracker):
    """One run for the task, whose id stays in the task's folder; its project is ``WANDB_PROJECT`` or the study.

    wandb joins the records of a step to one row and stores it when the next step begins, so what a killed process had
    stored ends with a complete step: the server tells which, or the files of an offline run.
    """

    def __init__(self, task: TrackedTask) -> None:
        state = task.task_dir / "wandb.json"
        if not state.is_file():
            write_atomically(state, json.dumps({"id": uuid.uuid4().hex[:8]}) + "\n")
        identity = json.loads(state.read_text(encoding="utf-8"))["id"]
        stored = last_offline_step(task.task_dir / "wandb", identity)
        os.environ.setdefault("WANDB_SILENT", "true")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", task.project),
            id=identity,
            resume="allow",
            name=task.name,
            tags=task.tags,
            config=task.settings,
            dir=str(task.task_dir),
            settings=wandb.Settings(init_timeout=SECONDS_TO_CONNECT, x_disable_stats=True),
        )
        self._next_step = max(self._run.step if self._run.resumed else 0, stored + 1)

    def holds(self, index: int, record: Record) -> bool:
        """Whether the step of a record was stored by an earlier process."""
        return bool(record["step"] < self._next_step)

    def log(self, record: Record) -> None:
        """Send one record."""
        self._run.log({name: value for name, value in record.items() if name != "step"}, step=record["step"])

    def attach(self, file: Path) -> None:
        """Keep a file with the run."""
        file = file.resolve()
        self._run.save(str(file), base_path=str(file.parent), policy="now")

    def finish(self, result: Path | None) -> None:
        """Put the result's metrics into the run's summary and wait until all is sent."""
        if result is not None:
            self._run.summary.update(json.loads(result.read_text(encoding="utf-8"))["metrics"])
        self._run.finish()


TRACKER = WeightsAndBiases


def last_offline_step(folder: Path, identity: str) -> int:
    """The last step in the files that earlier offline processes of the run left in ``folder``; -1: none."""
    steps = [-1]
    for path in folder.glob(f"offline-run-*-{identity}/run-{identity}.wandb"):
        for content in log_records(path.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(content)
            if record.HasField("history"):
                steps += [
                    int(item.value_json) for item in record.history.item if "_step" in (item.key, *item.nested_key)
                ]
    return max(steps)


def log_records(data: bytes) -> Iterator[bytes]:
    """The complete records of a wandb file: LevelDB's log format behind a header of 7 bytes."""
    block, position, record = 32768, 7, b""
    while position + 7 <= len(data):
        if block - position % block < 7:  # the end of a block is filled up
            position += block - position % block
            continue
        _checksum, length, kind = struct.unpack("<IHB", data[position : position + 7])
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if position > len(data) or kind == 0:
            return
        if kind in (1, 4):  # a record in one piece, or the last piece of one
            yield record
            record = b""
