"""MLflow: a server (``MLFLOW_TRACKING_URI``) or files in the study's folder."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

from nepa_scale.training.trackers import Record, TrackedTask, Tracker

LONGEST_PARAMETER = 500
#: In every record: the number of its values is the number of records.
COUNTED = "images_seen"


class MLflow(Tracker):
    """One run for the task, found again by its folder's name among the experiment's runs."""

    def __init__(self, task: TrackedTask) -> None:
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
            self.stored = len(self._client.get_metric_history(self._run, COUNTED))
            return
        tags = {MLFLOW_RUN_NAME: name} | {f"tag.{index}": tag for index, tag in enumerate(task.tags)}
        self._run = self._client.create_run(identity, tags=tags).info.run_id
        parameters = [Param(key, str(value)[:LONGEST_PARAMETER]) for key, value in task.settings.items()]
        self._client.log_batch(self._run, params=parameters, tags=[RunTag("tags", ", ".join(task.tags))])

    def log(self, record: Record) -> None:
        """Send one record."""
        now, step = int(1000 * time.time()), record["step"]
        metrics = [Metric(name, float(value), now, step) for name, value in record.items() if name != "step"]
        self._client.log_batch(self._run, metrics=metrics)

    def attach(self, file: Path) -> None:
        """Keep a file as an artifact."""
        self._client.log_artifact(self._run, str(file.resolve()))

    def finish(self, result: Path | None) -> None:
        """Send the result and end the run; without one it stays open for the next process."""
        if result is not None:
            final = json.loads(result.read_text(encoding="utf-8"))["metrics"]
            now = int(1000 * time.time())
            metrics = [Metric(f"result.{name}", float(value), now, 0) for name, value in final.items()]
            self._client.log_batch(self._run, metrics=metrics)
            self._client.set_terminated(self._run)


TRACKER = MLflow
