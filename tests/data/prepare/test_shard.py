"""Interrupted preparations: killed anywhere and started again, the same bytes come out and nothing else is left."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from archives import command, digests, imagenet, start

from nepa_scale.data.prepare.__main__ import main

STAGES = ["plan", "first shard", "half of the shards", "information", "checksums", "index", "random", "random again"]


def words(root: Path, source: Path, *more: str) -> list[str]:
    """The command that is killed: 40 training shards."""
    return ["imagenet", f"source={source}", f"root={root}", "name=in", "shard_size=3", *more]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archives with 120 training images."""
    return imagenet(tmp_path_factory.mktemp("archives"), per_class=40)


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Every file of a data set that was written without interruption, by one process."""
    root = tmp_path_factory.mktemp("undisturbed")
    assert main(words(root, source, "workers=1")) == 0
    assert [path.name for path in root.iterdir()] == ["in"]
    return digests(root)


def reached(root: Path, stage: str) -> bool:
    """Whether a preparation in another process has come this far, as its files show."""
    staging = root / ".preparing-in"
    dataset, done = staging / "dataset", len(list((staging / "done").glob("*.json")))
    return {
        "plan": (staging / "plan.json").exists(),
        "first shard": done >= 1,
        "half of the shards": done >= 20,
        "information": (dataset / "_info.json").exists(),
        "checksums": (dataset / "SHA256SUMS").exists(),
        "index": (dataset / "_index").exists(),
    }.get(stage, False) or (root / "in").exists()


@pytest.mark.slow(seconds=3)
@pytest.mark.parametrize("stage", STAGES)
def test_killed_and_started_again(source: Path, undisturbed: dict[str, object], tmp_path: Path, stage: str) -> None:
    """After SIGKILL the same command ends with the bytes of an undisturbed run, and nothing beside them."""
    deadline = time.monotonic() + (random.Random(stage).uniform(0.7, 1.5) if stage.startswith("random") else 60)
    with start(*words(tmp_path, source, "workers=2")) as process:
        while process.poll() is None and not reached(tmp_path, stage) and time.monotonic() < deadline:
            time.sleep(0.0005)
        workers = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
    psutil.wait_procs(workers, timeout=60)  # they end when they see that it is gone, and hold its lock until then
    assert main(words(tmp_path, source, "workers=1")) == 0
    assert digests(tmp_path) == undisturbed


def test_killed_between_the_last_two_steps(source: Path, undisturbed: dict[str, object], tmp_path: Path) -> None:
    """What is left when the folder has its name already is removed by the next call, which says that all is there."""
    assert main(words(tmp_path, source, "workers=1")) == 0
    staging = tmp_path / ".preparing-in"
    (staging / "done").mkdir(parents=True)
    (staging / "done" / "train-000000.tar.json").write_text("{}")
    (staging / "plan.json").write_text("{}")
    assert main(words(tmp_path, source)) == 0
    assert digests(tmp_path) == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_finished_shards_are_kept(source: Path, tmp_path: Path) -> None:
    """A second run does not write again what the first had finished."""
    with start(*words(tmp_path, source, "workers=1")) as process:
        while not reached(tmp_path, "half of the shards"):
            time.sleep(0.0005)
        process.kill()
    notes = list((tmp_path / ".preparing-in" / "done").glob("*.json"))
    names = {json.loads(note.read_text())["filename"] for note in notes if note.suffix == ".json"}
    before = {name: (tmp_path / ".preparing-in" / "dataset" / name).stat().st_ino for name in names}
    assert main(words(tmp_path, source, "workers=1")) == 0
    assert len(before) >= 20
    assert {name: (tmp_path / "in" / name).stat().st_ino for name in names} == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_stopping_on_request(
    source: Path, undisturbed: dict[str, object], tmp_path: Path, number: int, code: int
) -> None:
    """Ctrl-C and SIGTERM end at once, workers included, without a traceback; the same command continues."""
    for _ in range(5):
        with start(*words(tmp_path, source, "workers=2")) as process:
            while not reached(tmp_path, "first shard"):
                time.sleep(0.0005)
            process.send_signal(number)
            _, error = process.communicate(timeout=30)
        if process.returncode:
            break
        shutil.rmtree(tmp_path / "in")  # on a busy machine it was done before the signal came
    assert process.returncode == code
    assert error.splitlines() == (
        ["stopped: what is done is kept, and the same command continues"] if number == signal.SIGINT else []
    )
    assert main(words(tmp_path, source, "workers=1")) == 0
    assert digests(tmp_path) == undisturbed


@pytest.mark.parametrize(("stage", "workers"), [("first shard", 2), ("checksums", 1)])  # writing, indexing
def test_workers_end_with_their_parent(source: Path, tmp_path: Path, stage: str, workers: int) -> None:
    """After SIGKILL of the command no worker goes on or lingers."""
    with start(*words(tmp_path, source, f"workers={workers}")) as process:
        while not reached(tmp_path, stage):
            time.sleep(0.0005)
        children: list[psutil.Process] = []
        while process.poll() is None and len(children) < workers:
            children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    assert psutil.wait_procs(children, timeout=20)[1] == []


def test_two_at_once(source: Path, undisturbed: dict[str, object], tmp_path: Path) -> None:
    """The second process gets one line and leaves the first alone."""
    with start(*words(tmp_path, source, "workers=1")) as first:
        while not reached(tmp_path, "first shard"):
            time.sleep(0.0005)
        first.send_signal(signal.SIGSTOP)
        second = subprocess.run(command(*words(tmp_path, source)), capture_output=True, text=True, check=False)
        first.send_signal(signal.SIGCONT)
        first.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, 2)
    (line,) = second.stderr.splitlines()
    assert "'in' is being prepared by another process" in line
    assert digests(tmp_path) == undisturbed


@pytest.mark.parametrize("change", ["shard_size=4", "resize=16", "source"])
def test_other_work_is_not_mixed_in(
    source: Path, tmp_path: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unfinished work of other settings, or of a source that changed since, is refused with what differs."""
    staging = tmp_path / ".preparing-in"
    with start(*words(tmp_path, source, "workers=1")) as process:
        while not reached(tmp_path, "first shard"):
            time.sleep(0.0005)
        process.kill()
    other = imagenet(tmp_path / "other", per_class=41) if change == "source" else source
    assert main(words(tmp_path, other, *([] if change == "source" else [change]))) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"'{staging}' holds unfinished work of another preparation" in line
    assert {"shard_size=4": "shard_size=3", "resize=16": "resize=null", "source": "source has changed"}[change] in line
    shutil.rmtree(staging)
    assert main(words(tmp_path, other, "workers=1", *([] if change == "source" else [change]))) == 0


def test_another_source_under_the_same_name_is_refused(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A finished data set is never replaced."""
    assert main(words(tmp_path, source, "workers=1")) == 0
    before = digests(tmp_path / "in")
    assert main(words(tmp_path, imagenet(tmp_path / "other"))) == 2
    assert "exists and is not the data set asked for" in capsys.readouterr().err
    assert digests(tmp_path / "in") == before
