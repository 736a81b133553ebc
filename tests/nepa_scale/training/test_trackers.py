"""Experiment trackers hold each record of a task once, whatever happens to its processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from nepa_scale.config import validate
from nepa_scale.config.schema import LogConfig, RunConfig
from nepa_scale.training import trackers
from nepa_scale.training.trackers import TrackedTask, Tracker, Trackers

LAST = 24
#: A process that trains from a step to the last one, or is killed after one.
PROCESS = f"""
import json, os, signal, sys, time
from pathlib import Path
from nepa_scale.config.schema import RunConfig
from nepa_scale.training.trackers import TrackedTask, Trackers
folder, name, start, kill = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
def record(step):
    return {{"step": step, "images_seen": 32 * step, "loss": 1 / step}}
earlier = [record(step) for step in range(1, start + 1)]
task = TrackedTask(folder, RunConfig(), earlier)
run = Trackers([name], task)
for step in range(start + 1, {LAST} + 1):
    run.log(record(step))
    time.sleep(0.05)
    if step == kill:
        os.kill(os.getpid(), signal.SIGKILL)
run.log({{"step": {LAST}, "images_seen": 32 * {LAST}, "eval_loss": 0.5}})
(folder.parent / "config.yaml").write_text("seed: 0")
(folder / "result.json").write_text(json.dumps({{"metrics": {{"loss": 0.5}}}}))
run.finish(folder / "result.json")
"""


def train(folder: Path, name: str, start: int, kill: int) -> int:
    """One process of the task; returns its exit code."""
    return subprocess.run(
        [sys.executable, "-c", PROCESS, str(folder), name, str(start), str(kill)], check=False
    ).returncode


def wandb_losses(folder: Path) -> tuple[int, list[tuple[int, float]]]:
    """How many runs there are, and steps and losses in the files of offline runs."""
    from wandb.proto import wandb_internal_pb2

    from nepa_scale.training.tracker_kinds import log_records

    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    rows = [
        {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
        for path in files
        for record in map(wandb_internal_pb2.Record.FromString, log_records(path.read_bytes()))
        if record.HasField("history")
    ]
    return len({path.name for path in files}), [(row["_step"], row["loss"]) for row in rows]


def wandb_files(folder: Path) -> set[str]:
    """What is kept with the runs in the files of offline runs."""
    return {path.name for path in folder.glob("wandb/offline-run-*/files/*.*")}


def mlflow_files(folder: Path) -> set[str]:
    """The same of MLflow's files."""
    return {path.name for path in (folder.parents[1] / "mlruns").glob("*/*/artifacts/*")}


def trackio_losses(folder: Path) -> tuple[int, list[tuple[int, float]]]:
    """The same of trackio's database."""
    from trackio.sqlite_storage import SQLiteStorage

    rows = SQLiteStorage.get_logs("study", "femto-0 pretrain")
    return len(SQLiteStorage.get_runs("study")), [(row["step"], row["loss"]) for row in rows if "loss" in row]


def mlflow_losses(folder: Path) -> tuple[int, list[tuple[int, float]]]:
    """The same of MLflow's files."""
    from mlflow import MlflowClient

    client = MlflowClient((folder.parents[1] / "mlruns").absolute().as_uri())
    experiment = client.get_experiment_by_name("study")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(runs[0].info.run_id, "loss")
    return len(runs), sorted((metric.step, metric.value) for metric in history)


READERS: dict[str, Callable[[Path], tuple[int, list[tuple[int, float]]]]] = {
    "wandb": wandb_losses,
    "trackio": trackio_losses,
    "mlflow": mlflow_losses,
}
FILES: dict[str, Callable[[Path], set[str]]] = {"wandb": wandb_files, "mlflow": mlflow_files}


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_task_that_is_killed_twice_is_one_run_with_each_step_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after steps 13 and 19 and continued from checkpoints of 10 and 15: no step twice, none missing."""
    pytest.importorskip(name)
    for variable, value in {"WANDB_MODE": "offline", "TRACKIO_DIR": str(tmp_path / "trackio")}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    folder = tmp_path / "runs" / "femto-0" / "pretrain"
    folder.mkdir(parents=True)
    (tmp_path / "plan.json").write_text(json.dumps({"study": "study", "grid": "size"}))
    for start, kill, code in ((0, 13, -signal.SIGKILL), (10, 19, -signal.SIGKILL), (15, 0, 0)):
        assert train(folder, name, start, kill) == code
        time.sleep(1)  # what a killed process had handed over is stored by another
    lines = [
        "import json, pathlib, sys",
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})",
        "import test_trackers",
        f"print(json.dumps(test_trackers.{name}_losses(pathlib.Path(sys.argv[1]))))",
    ]
    script = "\n".join(lines)
    done = subprocess.run([sys.executable, "-c", script, str(folder)], check=True, capture_output=True, text=True)
    runs, losses = json.loads(done.stdout.splitlines()[-1])
    assert runs == 1
    assert [tuple(row) for row in losses] == [(step, 1 / step) for step in range(1, LAST + 1)]
    if name in FILES:
        assert {"result.json", "config.yaml"} <= FILES[name](folder)


class Broken(Tracker):
    """Fails at its second record."""

    records: ClassVar[list[Mapping[str, Any]]] = []

    def __init__(self, task: TrackedTask) -> None:
        self.records.clear()

    def log(self, record: Mapping[str, Any]) -> None:
        """Take one record."""
        if self.records:
            raise ConnectionError("no network")
        self.records.append(record)


def test_a_tracker_that_fails_is_left_out_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Training goes on, the other trackers have every record, and one line tells which tracker failed, and why."""
    module = types.ModuleType("broken")
    module.TRACKER = Broken  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "broken", module)
    monkeypatch.setitem(trackers.TRACKERS, "broken", "broken:TRACKER")
    run = Trackers(["broken", "tensorboard"], TrackedTask(tmp_path, RunConfig()))
    for step in (1, 2, 3):
        run.log({"step": step, "loss": 1 / step})
    run.finish(None)
    warnings = [record.getMessage() for record in caplog.records if "broken" in record.getMessage()]
    assert len(warnings) == 1
    assert "no network" in warnings[0]
    assert Broken.records == [{"step": 1, "loss": 1.0}]
    assert steps(tmp_path) == [1, 2, 3]


def test_tensorboard_shows_a_resumed_task_once(tmp_path: Path) -> None:
    """Steps after the checkpoint are purged and written again."""
    records = [{"step": step, "loss": 1 / step} for step in (1, 2, 3, 4)]
    for earlier, later in ((0, 4), (2, 4)):
        run = Trackers(["tensorboard"], TrackedTask(tmp_path, RunConfig(), records[:earlier]))
        for record in records[earlier:later]:
            run.log(record)
        run.finish(None)
        time.sleep(1)  # event files are named by the second
    assert steps(tmp_path) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ("[tensorboard,wand]", "'wand': not one of tensorboard, wandb, trackio, mlflow; did you mean 'wandb'?"),
        ("absent", "absent is not installed here; pip install 'nepa-scale[absent]'"),
    ],
)
def test_a_tracker_that_cannot_be_had_is_refused_before_any_work(
    names: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line names it, and what to write or to install."""
    if names == "absent":
        monkeypatch.setattr(validate, "TRACKERS", {"absent": "nepa_scale.training.tracker_kinds:Absent"})
    config = RunConfig(log=LogConfig(trackers=names))
    assert validate.check_values(config, ("pretrain",)) == [f"log.trackers: {problem}"]


def test_the_study_and_its_grid_are_tags(tmp_path: Path) -> None:
    """Read from the plan beside the runs; a run by itself has neither."""
    task_dir = tmp_path / "runs" / "femto-0" / "pretrain"
    task_dir.mkdir(parents=True)
    assert TrackedTask(task_dir, RunConfig()).tags == ("size=nano", "seed=0")
    (tmp_path / "plan.json").write_text(json.dumps({"study": "demo", "grid": "model_size"}))
    task = TrackedTask(task_dir, RunConfig())
    assert (task.project, task.name) == ("demo", "femto-0 pretrain")
    assert task.tags == ("study=demo", "grid=model_size", "size=nano", "seed=0")
    assert task.settings["pretrain.batch_size"] == RunConfig().pretrain.batch_size
    alone = TrackedTask(Path("alone/pretrain"), RunConfig())
    assert (alone.project, alone.name) == ("nepa_scale", "alone pretrain")


def steps(folder: Path) -> list[int]:
    """The steps of the losses in a task's event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [event.step for event in events.Scalars("loss")]
