"""Saving when things go wrong: killed at any moment, no room, no permission, broken disks, no memory."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import warm
from injecting import BEFORE_STEP, ends, start_with
from launching import REPOSITORY, clean_environment, start, train
from small_training import SmallTraining, newest_step

from nepa_scale.checkpoint import checkpointer, manifest
from nepa_scale.engine import shards
from nepa_scale.utils.errors import SaveError

KILLED_EVERYWHERE = """
import json, os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import torch
torch.set_num_threads(1)
from small_training import SmallTraining

EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "fsync"}
left = None

def event(name, arguments):
    global left
    if left is None or name not in EVENTS or "step_" not in str(arguments) + "step_" * (name == "fsync"):
        return
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(event)
flush = os.fsync
def fsync(descriptor):
    event("fsync", ())
    flush(descriptor)
os.fsync = fsync

def saved_until_killed(folder, moment, asynchronous):
    global left
    training = SmallTraining(folder, keep=1, asynchronous=asynchronous)
    training.save(100)
    left = moment
    training.save(200, wait=False)
    training.checkpoints.finish()
    os._exit(0)

for asynchronous in (False, True):
    for moment in range(100):
        folder = Path(sys.argv[1]) / f"{asynchronous}{moment}"
        child = os.fork()
        if child == 0:
            saved_until_killed(folder, moment, asynchronous)
        _, status = os.waitpid(child, 0)
        there = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
        survivor = SmallTraining(folder, keep=1)
        step = survivor.checkpoints.load_newest()
        weights = survivor.module[1].weight.flatten().tolist()
        survivor.save(300)
        again = SmallTraining(folder).checkpoints.load_newest()
        left_over = sorted(path.name for path in folder.iterdir())
        print(json.dumps([asynchronous, os.WIFSIGNALED(status), step, weights, again, left_over, there]), flush=True)
        if os.WIFEXITED(status):
            break
"""


@pytest.mark.slow(seconds=3)
def test_kill_at_any_moment_of_a_save(tmp_path: Path) -> None:
    """K1: kill -9 before each opening, flushing, making, renaming and deleting of a file or folder.

    What is continued from is the old checkpoint or the new one, whole, with the very weights of its step; nothing
    has to be cleaned up for the next save, and nothing of the killed one stays.
    """
    done = warm.run(
        ["-c", KILLED_EVERYWHERE, str(tmp_path), str(REPOSITORY / "tests" / "nepa_scale")],
        env=clean_environment(PYTHONPATH=str(REPOSITORY), DS_ACCELERATOR="cpu"),
    )
    assert done.returncode == 0, done.stderr
    training, expected = SmallTraining(tmp_path / "undisturbed"), {}
    for step in (100, 200):
        training.train()
        expected[step] = training.module[1].weight.detach().flatten().tolist()  # type: ignore[union-attr,operator]
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    for asynchronous in (False, True):
        mine = [outcome[1:] for outcome in outcomes if outcome[0] is asynchronous]
        assert len(mine) > 12
        assert [killed for killed, *_ in mine] == [True] * (len(mine) - 1) + [False]
        steps = [step for _, step, *_ in mine]
        assert steps == sorted(steps) and set(steps) == {100, 200}
        for _, step, weights, again, left_over, there in mine:
            assert weights == expected[step], there
            assert again == 300
            assert left_over == ["latest", "step_00000300"]


@pytest.fixture
def training(tmp_path: Path) -> SmallTraining:
    """One with a checkpoint at step 100."""
    training = SmallTraining(tmp_path / "run", keep=1)
    training.save(100)
    return training


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount a file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_full_disk_is_seen_before_writing(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """K2: too little room costs that checkpoint only, the figures are told, and later saves work again."""
    training = SmallTraining(small_disk / "run", keep=1)
    training.save(100)
    (small_disk / "filler").write_bytes(b"x" * (os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize))
    training.save(200)
    assert "checkpoint of step 200 not written" in str(training.checkpoints.problem)
    assert "0 MiB free" in str(training.checkpoints.problem)
    assert newest_step(small_disk / "run") == 100
    (small_disk / "filler").unlink()
    training.save(300)
    assert training.checkpoints.problem is None
    assert newest_step(small_disk / "run") == 300


@pytest.mark.parametrize("asynchronous", [False, True])
def test_disk_that_fills_up_while_writing(
    small_disk: Path, asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K2: ENOSPC half-way leaves the old checkpoint and removes the half of the new one, for the room it takes."""
    monkeypatch.setattr(checkpointer, "FREE_SPACE_FACTOR", 0)
    training = SmallTraining(small_disk / "run", keep=1, width=64, asynchronous=asynchronous)
    training.save(100)
    room = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize
    (small_disk / "filler").write_bytes(b"x" * (room - 4096))
    training.save(200, wait=False)
    training.checkpoints.finish()
    assert "rank 0: shard_00000.safetensors: [Errno 28] No space left on device" in str(training.checkpoints.problem)
    assert sorted(path.name for path in (small_disk / "run").iterdir()) == ["latest", "step_00000100"]
    assert SmallTraining(small_disk / "run", width=64).checkpoints.load_newest() == 100


def test_last_write_that_fits_in_part(small_disk: Path) -> None:
    """K2: the system takes the first bytes of a write that does not fit and reports no error; we do."""
    room = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize
    (small_disk / "filler").write_bytes(b"x" * (room - 8192))
    with pytest.raises(OSError, match="No space left"):
        shards.write_shard(small_disk / "file", [shards.Slice("a", 0, 4096)], [torch.zeros(4096)])


@pytest.mark.slow
def test_training_on_a_full_disk(tmp_path: Path, digits_root: Path) -> None:
    """K2: a training takes one lost checkpoint with an error line and a note in its status, and ends at the second
    with exit code 2; with room again the same command goes on. A lost last checkpoint costs no result."""
    folder = tmp_path / "pretrain" / "checkpoints"
    folder.mkdir(parents=True)
    disk = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(disk, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a file system")
    words = ["task=pretrain", "model=femto", f"data.root={digits_root}", f"run_dir={tmp_path}", "pretrain.steps=6"]
    words += ["pretrain.batch_size=16", "pretrain.image_size=48", "log.every=1", "log.tensorboard=false"]
    try:
        ended = start([*words, "checkpoint.every=2"])
        output = ended.communicate(timeout=240)[0]
        assert ended.returncode == 2, output
        log = (tmp_path / "pretrain" / "log.txt").read_text()
        assert "checkpoint of step 2 not written" in log and "older checkpoints are as they were" in log
        assert "step 4/6  loss" in log and "step 5/6  loss" not in log
        status = json.loads((tmp_path / "pretrain" / "status.json").read_text())
        assert status["state"] == "failed"
        assert "checkpoint of step 4 not written" in status["error"] and "nor could the one before" in status["error"]
        train([*words, "checkpoint.every=0"])
        assert (tmp_path / "pretrain" / "result.json").is_file()
        (tmp_path / "pretrain" / "result.json").unlink()
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    train([*words, "checkpoint.every=2"])
    assert newest_whole(folder) == 6


NO_ROOM = """
import resource
def fault(step):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    raise RuntimeError("the fault of this test")
"""
NO_ROOM_FOR_ROWS = """
from nepa_scale.training import run_logger
begin = run_logger.MetricsLog.__init__
def begun(self, *arguments, **options):
    begin(self, *arguments, **options)
    self._file = open("/dev/full", "ab", buffering=0)
run_logger.MetricsLog.__init__ = begun
"""


def words_of(digits_root: Path, run_dir: Path) -> list[str]:
    """A pre-training of three steps."""
    words = ["task=pretrain", "model=femto", f"data.root={digits_root}", f"run_dir={run_dir}", "pretrain.steps=3"]
    return [*words, "pretrain.batch_size=16", "log.every=1", "log.tensorboard=false", "log.pictures=0"]


@pytest.mark.slow(seconds=3)
def test_full_disk_hides_no_other_failure(tmp_path: Path, digits_root: Path) -> None:
    """K2: what ended the task is what is shown, and its code, where it cannot be put on record."""
    fault = {"FAULT_RANK": "0", "FAULT_STEP": "1"}
    [ended] = ends([start_with(NO_ROOM + BEFORE_STEP, words_of(digits_root, tmp_path), **fault)])
    assert ended.code == 1, ended.output
    assert ended.output.splitlines()[-1] == "error: RuntimeError: the fault of this test"
    assert "status.json cannot be updated to 'failed': File too large" in ended.output


@pytest.mark.slow(seconds=3)
def test_task_whose_rows_find_no_room_is_not_finished(tmp_path: Path, digits_root: Path) -> None:
    """K2: training goes on without a log, and its end fails with one line; with room the same command finishes it."""
    words = words_of(digits_root, tmp_path)
    [ended] = ends([start_with(NO_ROOM_FOR_ROWS, words)])
    assert ended.code == 2, ended.output
    [line] = [line for line in ended.output.splitlines() if line.startswith("error: ")]
    assert line == (
        f"error: {tmp_path}/pretrain: the result cannot be written: No space left on device; make room, and the same"
        " command tries again"
    )
    assert ended.output.count("No space left on device: the record of this training is written as soon as") == 1
    assert json.loads((tmp_path / "pretrain" / "status.json").read_text())["error"] == line.removeprefix("error: ")
    assert not (tmp_path / "pretrain" / "result.json").exists()
    train(words)
    assert (tmp_path / "pretrain" / "result.json").is_file()


def newest_whole(folder: Path) -> int:
    """The step of the newest checkpoint whose files are there."""
    return max(manifest.read(path).step for path in manifest.tags(folder))


def fails(number: int, after: int = 0) -> Callable[..., None]:
    """A system call that fails with an error number, not before it was called ``after`` times."""
    calls = 0

    def call(*_: object, **__: object) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize(
    ("owner", "name", "number"),
    [
        (Path, "mkdir", errno.EACCES),
        (Path, "rename", errno.EACCES),
        (Path, "replace", errno.ENOSPC),
        (os, "fsync", errno.EIO),
        (checkpointer.shutil, "disk_usage", errno.ESTALE),
        (checkpointer, "write_shard", errno.EIO),
        (checkpointer, "make_durable", errno.EIO),
        (manifest, "write_json", errno.EDQUOT),
    ],
)
def test_error_of_any_call(
    training: SmallTraining, owner: object, name: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K2: whichever call fails, training goes on, the error is told, and the old or the new checkpoint is whole."""
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, fails(number))
        training.save(200)
    assert os.strerror(number) in str(training.checkpoints.problem)
    # Only the hint `latest` comes after the rename: failing there, the new checkpoint counts, and the old is not gone.
    assert newest_step(training.checkpoints._folder) == 100
    training.save(300)
    assert training.checkpoints.problem is None
    assert newest_step(training.checkpoints._folder) == 300


def test_no_memory_for_a_copy(training: SmallTraining, monkeypatch: pytest.MonkeyPatch) -> None:
    """An asynchronous save that finds no memory fails as one that finds no disk."""
    training.checkpoints._asynchronous = True
    with monkeypatch.context() as patched:
        patched.setattr(training.checkpoints, "_copied", fails_for_memory)
        training.save(200, wait=False)
        training.checkpoints.finish()
    assert "no memory for a copy of the state" in str(training.checkpoints.problem)
    assert newest_step(training.checkpoints._folder) == 100


def fails_for_memory(_: object) -> None:
    """As torch does."""
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory")


def test_second_failure_in_a_row_ends_the_run(training: SmallTraining, monkeypatch: pytest.MonkeyPatch) -> None:
    """One lost checkpoint is an incident, two are a state: devices must not be used for what cannot be kept."""
    with monkeypatch.context() as patched:
        patched.setattr(checkpointer, "write_shard", fails(errno.ENOSPC))
        training.save(200)
        with pytest.raises(SaveError, match=r"step 300 not written: .*No space left.*nor could the one before"):
            training.save(300)
    training.save(400)
    with monkeypatch.context() as patched:  # counted anew after one that worked
        patched.setattr(checkpointer, "write_shard", fails(errno.ENOSPC))
        training.save(500)
    assert newest_step(training.checkpoints._folder) == 400


def test_failed_deletion_is_no_failed_save(training: SmallTraining, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old checkpoint stays when it cannot be deleted, and goes with the next."""
    with monkeypatch.context() as patched:
        patched.setattr(checkpointer.shutil, "rmtree", fails(errno.EACCES))
        training.save(200)
    assert training.checkpoints.problem is None
    assert len(manifest.tags(training.checkpoints._folder)) == 2
    training.save(300)
    assert [path.name for path in manifest.tags(training.checkpoints._folder)] == ["step_00000300"]


def test_wrong_length_is_caught_where_it_is_written(tmp_path: Path) -> None:
    """A state that changes its shape between being listed and being written is an error, not a file."""
    with pytest.raises(ValueError, match=r"\[3\] instead of .* \[2\]"):
        shards.write_shard(tmp_path / "file", [shards.Slice("a", 0, 2)], [torch.zeros(3)])
