"""The trackers that are shipped: TensorBoard, Weights & Biases, trackio and MLflow.

Each imports its package when a task's run begins. To add one, write its class here and its name in
``nepa_scale.config.registry.TRACKERS``.
"""

from __future__ import annotations

import json
import os
import struct
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nepa_scale.training.trackers import Record, TrackedTask, Tracker
from nepa_scale.utils.errors import UserError
from nepa_scale.utils.files import write_atomically

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_SECONDS_TO_CONNECT = 30  # of wandb
_LONGEST_PARAMETER = 500  # that MLflow takes
_COUNTED = "images_seen"  # in every record: the number of its values in MLflow is the number of records


class TensorBoard(Tracker):
    """Event files in the task's folder. They are opened at the first record, which takes a second that the first step
    need not wait for.

    What earlier processes wrote after the checkpoint is purged by step, so records are sent again.
    """

    def __init__(self, task: TrackedTask) -> None:
        self._folder = task.task_dir / "tensorboard"
        self.stored = len(task.records)
        self._writer: SummaryWriter | None = None
        if os.fsencode(self._folder) != str(self._folder).encode("utf-8", "surrogatepass"):
            raise UserError(f"{self._folder}: TensorBoard cannot find this folder under this locale")

    def log(self, record: Record) -> None:
        """Write a scalar for each value."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=record["step"])
        for name, value in record.items():
            if name != "step":
                self._writer.add_scalar(name, value, record["step"])

    def finish(self, result: Path | None) -> None:
        """Flush and close the files."""
        if self._writer is not None:
            self._writer.close()


class WeightsAndBiases(Tracker):
    """Online or offline (``WANDB_MODE=offline``, then ``wandb sync``): one run for the task, with its id in the task's
    folder; its project is ``WANDB_PROJECT`` or the study.

    wandb joins the records of a step to one row and stores it when the next step begins, so what a killed process had
    stored ends with a complete step: the server tells which, or the files of an offline run.
    """

    def __init__(self, task: TrackedTask) -> None:
        import wandb

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
            settings=wandb.Settings(init_timeout=_SECONDS_TO_CONNECT, x_disable_stats=True),
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


def last_offline_step(folder: Path, identity: str) -> int:
    """The last step in the files that earlier offline processes of the run left in ``folder``; -1: none."""
    from wandb.proto import wandb_internal_pb2

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


class Trackio(Tracker):
    """One run for the task in a local database (``TRACKIO_DIR``), shown by ``trackio show``.

    Records are stored in batches twice a second, so the database is asked what it holds.
    """

    def __init__(self, task: TrackedTask) -> None:
        import trackio
        from trackio.sqlite_storage import SQLiteStorage

        self._run = trackio.init(
            project=task.project,
            name=task.name,
            config={**task.settings, "tags": list(task.tags)},
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self.stored = len(SQLiteStorage.get_logs(task.project, task.name))

    def log(self, record: Record) -> None:
        """Send one record."""
        self._run.log({name: value for name, value in record.items() if name != "step"}, step=record["step"])

    def finish(self, result: Path | None) -> None:
        """Attach the result's text and wait until all is stored."""
        if result is not None:
            metrics = json.loads(result.read_text(encoding="utf-8"))["metrics"]
            self._run.config.update({f"result.{name}": value for name, value in metrics.items()})
        self._run.finish()


class MLflow(Tracker):
    """On a server (``MLFLOW_TRACKING_URI``) or in files in the study's folder: one run for the task, found again by its
    folder's name among the experiment's runs.
    """

    def __init__(self, task: TrackedTask) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param, RunTag
        from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        uri = os.environ.get("MLFLOW_TRACKING_URI", (task.task_dir.absolute().parent.parent / "mlruns").as_uri())
        self._client = MlflowClient(uri)
        experiment = self._client.get_experiment_by_name(task.project)
        identity = self._client.create_experiment(task.project) if experiment is None else experiment.experiment_id
        name = task.name.replace("'", "")
        earlier = self._client.search_runs([identity], f"tags.`{MLFLOW_RUN_NAME}` = '{name}'")
        if earlier:
            self._run = earlier[0].info.run_id
            self._client.update_run(self._run, "RUNNING")
            self.stored = len(self._client.get_metric_history(self._run, _COUNTED))
            return
        tags = {MLFLOW_RUN_NAME: name} | {f"tag.{index}": tag for index, tag in enumerate(task.tags)}
        self._run = self._client.create_run(identity, tags=tags).info.run_id
        parameters = [Param(key, str(value)[:_LONGEST_PARAMETER]) for key, value in task.settings.items()]
        self._client.log_batch(self._run, params=parameters, tags=[RunTag("tags", ", ".join(task.tags))])

    def log(self, record: Record) -> None:
        """Send one record."""
        from mlflow.entities import Metric

        now, step = int(1000 * time.time()), record["step"]
        metrics = [Metric(name, float(value), now, step) for name, value in record.items() if name != "step"]
        self._client.log_batch(self._run, metrics=metrics)

    def attach(self, file: Path) -> None:
        """Keep a file as an artifact."""
        self._client.log_artifact(self._run, str(file.resolve()))

    def finish(self, result: Path | None) -> None:
        """Send the result and end the run; without one it stays open for the next process."""
        from mlflow.entities import Metric

        if result is not None:
            final = json.loads(result.read_text(encoding="utf-8"))["metrics"]
            now = int(1000 * time.time())
            metrics = [Metric(f"result.{name}", float(value), now, 0) for name, value in final.items()]
            self._client.log_batch(self._run, metrics=metrics)
            self._client.set_terminated(self._run)
