"""The log of a task: every step once, across kills and resumes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from full_disk import largest_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nepa_scale.config.schema import RunConfig
from nepa_scale.distributed.world import World
from nepa_scale.run_dir.status import read_status
from nepa_scale.training import run_logger
from nepa_scale.training.run_logger import MetricsLog, RunLogger, read_rows
from nepa_scale.training.trackers import TrackedTask, Trackers
from nepa_scale.utils import progress


def write_rows(folder: Path, *steps: int, resume_at: int, tensorboard: bool = False) -> None:
    """Log a row for each step, as a run that starts or resumes at ``resume_at`` would."""
    log = MetricsLog(folder, resume_at=resume_at, final_step=100)
    if tensorboard:
        log.send_to(Trackers(["tensorboard"], TrackedTask(folder, RunConfig(), log.rows)))
    for step in steps:
        log.write({"step": step, "loss": float(step) + resume_at / 1000})
    log.close()


def steps_of(folder: Path) -> list[int]:
    """The steps that stand in the log, read by nothing but ``json``."""
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_rows_are_read_back(tmp_path: Path) -> None:
    """What is written is what others read, one JSON object per line."""
    rows: list[dict[str, Any]] = [{"step": 1, "loss": -0.5, "lr": 1e-5}, {"step": 1, "eval_skill": 0.25}]
    log = MetricsLog(tmp_path, resume_at=0, final_step=100)
    for row in rows:
        log.write(row)
    log.close()
    assert read_rows(tmp_path / "metrics.jsonl") == rows
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == rows


def test_folders_whose_name_is_not_utf_8(tmp_path: Path) -> None:
    """TensorBoard, which takes no such folder, is left out with a line in the log; the rows are written."""
    folder = tmp_path / "run\udcff"
    folder.mkdir()
    progress.start_logging(folder)
    write_rows(folder, 1, 2, resume_at=0, tensorboard=True)
    assert steps_of(folder) == [1, 2]
    assert (folder / "log.txt").read_text(encoding="utf-8").count(r"run\udcff/tensorboard: ") == 1


@pytest.mark.slow(seconds=3)
@pytest.mark.skipif(shutil.which("localedef") is None, reason="needs localedef, to make a locale")
def test_rows_are_written_under_any_locale(tmp_path: Path) -> None:
    """TensorBoard takes every name for UTF-8, and under Latin-1 finds no folder of other letters: it is left out."""
    made = subprocess.run(["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(tmp_path / "latin")], check=False)
    if made.returncode:
        pytest.skip("there is no definition of Latin-1")
    folder = tmp_path / "日本é"
    folder.mkdir()
    write = (
        "import sys; from pathlib import Path; from test_run_logger import write_rows;"
        "assert sys.getfilesystemencoding() == 'iso8859-1';"
        "write_rows(Path(sys.argv[1]), 1, resume_at=0, tensorboard=True)"
    )
    latin = {
        "LOCPATH": str(tmp_path),
        "LC_ALL": "latin",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    subprocess.run([sys.executable, "-c", write, str(folder)], env={**os.environ, **latin}, check=True, timeout=120)
    assert steps_of(folder) == [1]
    assert [path.name for path in folder.iterdir()] == ["metrics.jsonl"]
    assert {path.name for path in tmp_path.iterdir()} == {"latin", folder.name}


def test_row_is_on_disk_at_once(tmp_path: Path) -> None:
    """Another process sees a row as soon as it is written, and a kill loses none."""
    log = MetricsLog(tmp_path, resume_at=0, final_step=100)
    log.write({"step": 1})
    assert steps_of(tmp_path) == [1]
    log.close()


def test_rows_wait_for_room(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """K2: a full disk keeps rows back, the last one cut off in the file, and with room all of them are there, once; it
    is told once. Who needs all rows is told of those that cannot be written."""
    rows: list[dict[str, Any]] = [{"step": step, "loss": 0.25} for step in range(1, 6)]
    progress.logger.propagate = True
    log = MetricsLog(tmp_path, resume_at=0, final_step=100)
    with largest_file(40):
        for row in rows[:4]:
            log.write(row)
        assert (tmp_path / "metrics.jsonl").stat().st_size == 40
        assert read_rows(tmp_path / "metrics.jsonl") == rows[:1]
        for needs_all in (log.flush, log.make_durable):
            with pytest.raises(OSError, match="File too large"):
                needs_all()
    log.write(rows[4])
    log.close()
    assert read_rows(tmp_path / "metrics.jsonl") == rows
    assert [record.message for record in caplog.records] == [
        f"{tmp_path}: File too large: the record of this training is written as soon as there is room"
    ]


def test_a_status_without_room_ends_no_training(tmp_path: Path) -> None:
    """K2: training goes on beside a status that cannot be written; a task is not finished without it."""
    logger = RunLogger(tmp_path, RunConfig(), World(), start=0, total_steps=9)
    with largest_file(0):
        logger.status("running", 1)
        with pytest.raises(OSError, match="File too large"):
            logger.status("finished", 9)
    logger.status("running", 2)
    logger.close()
    status = read_status(tmp_path)
    assert status is not None
    assert (status.state, status.step) == ("running", 2)


def test_a_save_makes_the_log_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows up to a checkpoint outlive a power cut as the checkpoint does."""
    log = MetricsLog(tmp_path, resume_at=0, final_step=100)
    flushed: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda number: flushed.append(Path(f"/proc/self/fd/{number}").resolve()))
    log.make_durable()
    log.close()
    assert flushed == [tmp_path / "metrics.jsonl"]


def test_resume_drops_the_rows_after_the_checkpoint(tmp_path: Path) -> None:
    """Steps that are repeated after a resume stand once, with the values of the repetition."""
    write_rows(tmp_path, 10, 20, 30, 40, resume_at=0)
    write_rows(tmp_path, 30, 40, 50, resume_at=20)
    assert steps_of(tmp_path) == [10, 20, 30, 40, 50]
    assert [row["loss"] for row in read_rows(tmp_path / "metrics.jsonl")] == [10.0, 20.0, 30.02, 40.02, 50.02]


def test_start_from_nothing_drops_all_rows(tmp_path: Path) -> None:
    """A run killed before its first checkpoint begins its log anew."""
    write_rows(tmp_path, 10, 20, resume_at=0)
    write_rows(tmp_path, 10, resume_at=0)
    assert steps_of(tmp_path) == [10]


def test_line_cut_off_by_a_kill_is_dropped(tmp_path: Path) -> None:
    """Half a last line neither stops a reader nor a resume, and is gone afterwards."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10, "loss": 1.0}\n{"step": 20, "lo')
    assert read_rows(path) == [{"step": 10, "loss": 1.0}]
    write_rows(tmp_path, 30, resume_at=20)
    assert steps_of(tmp_path) == [10, 30]


def test_earlier_rows_are_known_after_a_resume(tmp_path: Path) -> None:
    """The rows that stay are at hand, so that elapsed time goes on counting."""
    write_rows(tmp_path, 10, 20, 30, resume_at=0)
    log = MetricsLog(tmp_path, resume_at=20, final_step=100)
    log.close()
    assert [row["step"] for row in log.rows] == [10, 20]


def test_absent_log_is_empty(tmp_path: Path) -> None:
    """A task that has logged nothing has no rows."""
    assert read_rows(tmp_path / "metrics.jsonl") == []


def test_tensorboard_shows_the_same_rows(tmp_path: Path) -> None:
    """The event files, read by TensorBoard itself, hold each step once after a resume."""
    write_rows(tmp_path, 10, 20, 30, resume_at=0, tensorboard=True)
    write_rows(tmp_path, 30, 40, resume_at=20, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    shown = [(event.step, round(event.value, 3)) for event in events.Scalars("loss")]
    assert shown == [(10, 10.0), (20, 20.0), (30, 30.02), (40, 40.02)]


def test_no_event_files_unless_asked_for(tmp_path: Path) -> None:
    """``log.tensorboard=false`` leaves the folder with the log alone."""
    write_rows(tmp_path, 10, resume_at=0)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_repeated_last_evaluation_stands_once(tmp_path: Path) -> None:
    """A kill between the last evaluation and the result repeats the evaluation; its first row must go."""
    last = {"step": 40, "eval_loss": -0.5}
    for _ in range(2):
        log = MetricsLog(tmp_path, resume_at=40, final_step=40)
        log.write(last)
        log.close()
    assert read_rows(tmp_path / "metrics.jsonl") == [last]


def test_the_commit_on_record_is_that_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of the code or a new file in it shows, one elsewhere does not; untracked code has no commit."""
    code = tmp_path / "nepa_scale" / "training" / "run_logger.py"
    code.parent.mkdir(parents=True)
    code.write_text("one")

    def git(*words: str) -> str:
        name = ("-c", "user.name=a", "-c", "user.email=a@b.invalid")
        done = subprocess.run(["git", *name, "-C", str(tmp_path), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init")
    monkeypatch.setattr(run_logger, "__file__", str(code))
    assert run_logger._commit() == "unknown"
    git("add", ".")
    git("commit", "-m", "one")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "notes.txt").write_text("elsewhere")
    assert run_logger._commit() == commit
    code.write_text("two")
    assert run_logger._commit() == f"{commit}-dirty"
    git("checkout", ".")
    (tmp_path / "ds_configs").mkdir()
    (tmp_path / "ds_configs" / "mine.json").write_text("{}")
    assert run_logger._commit() == f"{commit}-dirty"
