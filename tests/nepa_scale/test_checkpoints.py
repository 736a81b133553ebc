"""The commit protocol: whatever is interrupted or damaged, the newest whole checkpoint is the one found."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import next_line, running

from nepa_scale import checkpoints
from nepa_scale.distributed import World

Write = Callable[[Path, str], None]


def writer(text: str = "state") -> Write:
    """Write two files, one in a folder, as a training engine would."""

    def write(parent: Path, name: str) -> None:
        folder = parent / name
        (folder / "deep").mkdir(parents=True)
        (folder / "model.pt").write_text(text)
        (folder / "deep" / "optimizer.pt").write_text(text * 2)

    return write


def save(folder: Path, *steps: int, keep: int = 9, write: Write | None = None) -> None:
    """Save checkpoints of several steps, each with its step in its files."""
    for step in steps:
        checkpoints.save(folder, step, World(), write or writer(f"state {step}"), keep=keep)


def newest_step(folder: Path) -> int | None:
    """The step of the newest whole checkpoint."""
    found = checkpoints.newest(folder)
    return found[0] if found else None


def test_checkpoint_is_found_with_all_its_files(tmp_path: Path) -> None:
    """What was written is what is found, under the tag of its step, with a manifest of names and sizes."""
    save(tmp_path, 100)
    path = tmp_path / "step_00000100"
    assert checkpoints.newest(tmp_path) == (100, path)
    assert (path / "deep" / "optimizer.pt").read_text() == "state 100" * 2
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest == {"step": 100, "world_size": 1, "files": {"model.pt": 9, "deep/optimizer.pt": 18}}


def test_commit_is_a_rename(tmp_path: Path) -> None:
    """The files written are those committed, not copies: a checkpoint's name never holds part of one."""
    written = []

    def write(parent: Path, name: str) -> None:
        writer()(parent, name)
        written.append((parent / name / "model.pt").stat().st_ino)

    save(tmp_path, 100, write=write)
    assert written == [(tmp_path / "step_00000100" / "model.pt").stat().st_ino]


def test_no_checkpoint(tmp_path: Path) -> None:
    """A run that has saved nothing starts at the beginning, whether or not the folder exists."""
    assert checkpoints.newest(tmp_path) is None
    assert checkpoints.newest(tmp_path / "absent") is None


def test_newest_is_the_highest_step(tmp_path: Path) -> None:
    """Steps are compared as numbers, not by when they were written."""
    save(tmp_path, 1000, 90, 200)
    assert newest_step(tmp_path) == 1000


def test_number_of_ranks_is_recorded(tmp_path: Path) -> None:
    """A partitioned state can be refused on other numbers of devices: the checkpoint knows its own."""
    checkpoints.save(tmp_path, 5, World(rank=0, size=4), writer(), keep=1)
    assert checkpoints.world_size_of(tmp_path / "step_00000005") == 4


def test_failing_write_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    """A full disk half-way through a save costs that save only; its remains do not hinder the next."""

    def fails(parent: Path, name: str) -> None:
        writer("half")(parent, name)
        raise OSError("no space left on device")

    save(tmp_path, 100)
    with pytest.raises(OSError, match="no space left"):
        save(tmp_path, 200, write=fails)
    assert (tmp_path / "step_00000200.tmp").is_dir()
    assert newest_step(tmp_path) == 100
    save(tmp_path, 200)
    assert newest_step(tmp_path) == 200
    assert (tmp_path / "step_00000200" / "model.pt").read_text() == "state 200"


def test_kill_during_a_write_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    """What a process killed while writing leaves behind is not taken for a checkpoint, and is cleared."""
    code = """
import sys, time
from pathlib import Path
from nepa_scale import checkpoints
from nepa_scale.distributed import World

def write(parent, name):
    (parent / name).mkdir()
    (parent / name / "model.pt").write_text("half")
    print("writing", flush=True)
    time.sleep(600)

checkpoints.save(Path(sys.argv[1]), 200, World(), write, keep=1)
"""
    save(tmp_path, 100)
    with running(code, str(tmp_path)) as process:
        assert next_line(process) == "writing"
        process.send_signal(signal.SIGKILL)
    assert newest_step(tmp_path) == 100
    save(tmp_path, 300, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000300"]


def truncate(path: Path) -> None:
    """Cut the last byte off a file."""
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("name", ["model.pt", "deep/optimizer.pt", "manifest.json"])
@pytest.mark.parametrize("damage", [Path.unlink, truncate], ids=["missing", "cut off"])
def test_damaged_checkpoint_is_passed_over(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    """A file missing or too short, the manifest included, sends the run back one checkpoint."""
    save(tmp_path, 100, 200)
    path = tmp_path / "step_00000200" / name
    if name == "manifest.json" and damage is truncate:
        truncate(path)  # only the final newline: what was cut must be part of the JSON
    damage(path)
    assert newest_step(tmp_path) == 100


def test_checkpoint_of_a_step_is_replaced(tmp_path: Path) -> None:
    """Saving a step again leaves nothing of what stood there, so a damaged checkpoint heals."""
    save(tmp_path, 100, write=writer("old"))
    (tmp_path / "step_00000100" / "stray.pt").write_text("stray")
    (tmp_path / "step_00000100" / "model.pt").unlink()
    save(tmp_path, 100, write=writer("new"))
    assert newest_step(tmp_path) == 100
    assert (tmp_path / "step_00000100" / "model.pt").read_text() == "new"
    assert not (tmp_path / "step_00000100" / "stray.pt").exists()


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_newest_checkpoints_are_kept(tmp_path: Path, keep: int) -> None:
    """Exactly ``keep`` checkpoints stay, the newest ones."""
    save(tmp_path, 8, 9, 10, 11, keep=keep)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step_{step:08d}" for step in (8, 9, 10, 11)][-keep:]


def test_damaged_checkpoint_does_not_push_out_a_whole_one(tmp_path: Path) -> None:
    """After falling back behind a damaged checkpoint, what is saved next is kept, not the damaged one."""
    save(tmp_path, 200, 300)
    (tmp_path / "step_00000300" / "model.pt").unlink()
    save(tmp_path, 250, keep=1)
    assert newest_step(tmp_path) == 250
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000250"]


def test_files_beside_the_checkpoints_stay(tmp_path: Path) -> None:
    """Retention touches checkpoints and their remains only; DeepSpeed puts a script beside them."""
    (tmp_path / "zero_to_fp32.py").write_text("script")
    (tmp_path / "step_of_mine.txt").write_text("note")
    save(tmp_path, 1, 2, keep=1)
    assert {path.name for path in tmp_path.iterdir()} == {
        "zero_to_fp32.py",
        "step_of_mine.txt",
        "step_00000002",
    }


def test_only_the_main_rank_commits(tmp_path: Path) -> None:
    """Another rank writes its files into the shared temporary folder and leaves the rest to rank 0."""
    checkpoints.save(tmp_path, 7, World(rank=1, size=2), writer(), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000007.tmp"]
    assert re.fullmatch(checkpoints.TAG, "step_00000007.tmp") is None
