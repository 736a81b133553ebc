"""The commit protocol in one process: whatever is damaged, the newest whole checkpoint is the one continued from."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from small_training import SmallTraining, newest_step

from nepa_scale.checkpoint import manifest
from nepa_scale.utils.errors import RunError
from nepa_scale.utils.progress import logger

SHARD = "shard_00000.safetensors"


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Let pytest see what the project logs."""
    logger.addHandler(caplog.handler)
    yield
    logger.removeHandler(caplog.handler)


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_state_comes_back_bit_by_bit(tmp_path: Path) -> None:
    """Weights, frozen ones too, buffers, moments, their step and the average are what they were."""
    training, other = SmallTraining(tmp_path), SmallTraining(tmp_path)
    training.train(2)
    training.save(100)
    assert other.checkpoints.load_newest() == 100
    assert other.equals(training.tensors())
    for each in (training, other):
        torch.manual_seed(1)
        each.train(3)
    assert other.equals(training.tensors())


def test_manifest_tells_what_is_there(tmp_path: Path) -> None:
    """Sizes and SHA-256 are those of the files, as other programs find them; whose state it is stands beside."""
    training = SmallTraining(tmp_path, run_id="abc", settings={"seed": 3})
    training.train()
    training.checkpoints.save(100, 1600)
    path = tmp_path / "step_00000100"
    content = json.loads((path / "manifest.json").read_text())
    data = (path / SHARD).read_bytes()
    assert content["files"] == {SHARD: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}}
    assert (content["step"], content["images_seen"], content["optimizer_steps"]) == (100, 1600, 1)
    assert (content["world_size"], content["zero_stage"], content["run_id"]) == (1, 0, "abc")
    assert content["settings"] == {"seed": 3}
    assert content["versions"]["torch"] == torch.__version__
    assert names(path) == ["manifest.json", SHARD]
    assert (tmp_path / "latest").read_text() == "step_00000100\n"
    # No temporary name is left, nothing is executable, and who may read is for the umask to say.
    assert names(tmp_path) == ["latest", "step_00000100"]
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask() for file in path.iterdir())


def umask() -> int:
    """The process's mask of permissions."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_file_is_safetensors(tmp_path: Path) -> None:
    """The library reads what was written: every tensor under its parameter's name, with its values."""
    training = SmallTraining(tmp_path)
    training.save(1)
    content = safetensors.torch.load_file(tmp_path / "step_00000001" / SHARD)
    assert torch.equal(content["weight/1.weight"], training.module[1].weight.detach().flatten())
    moments = training.optimizer.state[training.module[1].bias]
    assert torch.equal(content["exp_avg_sq/1.bias"], moments["exp_avg_sq"])
    assert torch.equal(content["frozen/0.weight"], training.module[0].weight.flatten())
    assert torch.equal(content["buffer/2.running_var"], training.module[2].running_var)
    assert content["buffer/2.num_batches_tracked"].dtype == torch.int64
    assert torch.equal(content["average/1.bias"], training.average.tensors[1])


def test_no_checkpoint(tmp_path: Path) -> None:
    """A run that has saved nothing starts at the beginning, whether or not the folder exists."""
    training = SmallTraining(tmp_path)
    before = training.tensors()
    assert training.checkpoints.load_newest() == 0
    assert newest_step(tmp_path / "absent") == 0
    assert training.equals(before)


def test_newest_is_the_highest_step(tmp_path: Path) -> None:
    """Steps are compared as numbers, not by when they were written, nor as texts."""
    SmallTraining(tmp_path).save(1000, 123456789, 90, 200)
    assert newest_step(tmp_path) == 123456789


def truncate(path: Path) -> None:
    """Cut the last bytes off a file."""
    path.write_bytes(path.read_bytes()[:-4])


def flip(path: Path) -> None:
    """Change one bit in the last third."""
    data = bytearray(path.read_bytes())
    data[len(data) * 4 // 5] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    """Leave nothing in a file."""
    path.write_bytes(b"")


@pytest.mark.parametrize("name", [SHARD, "manifest.json"])
@pytest.mark.parametrize(
    "damage", [Path.unlink, truncate, flip, empty], ids=["missing", "truncated", "flipped", "empty"]
)
def test_damaged_checkpoint_is_passed_over(
    tmp_path: Path, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """K3: any file missing, cut, empty or with one bit changed sends the run back one checkpoint, and is named."""
    training = SmallTraining(tmp_path)
    training.save(100)
    expected = training.tensors()
    training.save(200)
    path = tmp_path / "step_00000200" / name
    if name == "manifest.json" and damage is flip:
        path.write_text(path.read_text().replace('"sha256": "', '"sha256": "0'))
    else:
        damage(path)
    other = SmallTraining(tmp_path)
    assert other.checkpoints.load_newest() == 100
    assert other.equals(expected)
    warning = next(record for record in caplog.records if record.levelno == logging.WARNING)
    assert str(tmp_path / "step_00000200" / ("" if damage is flip else name)) in warning.getMessage()


def test_nothing_whole_starts_anew(tmp_path: Path) -> None:
    """Where every checkpoint is damaged the run begins at step 0 with its own initial weights."""
    SmallTraining(tmp_path).save(100, 200)
    for path in tmp_path.glob("step_*"):
        flip(path / SHARD)
    other = SmallTraining(tmp_path)
    before = other.tensors()
    assert other.checkpoints.load_newest() == 0
    assert other.equals(before)


def test_extra_file_does_not_matter(tmp_path: Path) -> None:
    """K3: what the manifest does not name is not read."""
    SmallTraining(tmp_path).save(100)
    (tmp_path / "step_00000100" / "shard_00001.safetensors").write_bytes(b"extra")
    assert newest_step(tmp_path) == 100


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "", ".hidden", "a/b"])
def test_manifest_cannot_name_files_elsewhere(tmp_path: Path, name: str) -> None:
    """K3: a manifest that names what is no file of its folder is a damaged one."""
    SmallTraining(tmp_path).save(100)
    path = tmp_path / "step_00000100" / "manifest.json"
    content = json.loads(path.read_text())
    content["files"][name] = content["files"][SHARD]
    path.write_text(json.dumps(content))
    with pytest.raises(manifest.DamagedError, match=r"manifest\.json: names a file"):
        manifest.read(path.parent)
    assert newest_step(tmp_path) == 0


@pytest.mark.parametrize("content", [None, "", "garbage\0", "step_00000900", "../x", "step_00000100"])
def test_latest_is_only_a_hint(tmp_path: Path, content: str | None) -> None:
    """K4: missing, empty, garbage, a tag that is not there or an older one: the newest checkpoint is found."""
    SmallTraining(tmp_path).save(100, 200)
    (tmp_path / "latest").unlink()
    if content is not None:
        (tmp_path / "latest").write_text(content)
    assert newest_step(tmp_path) == 200


def test_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    """K5: one line names the settings that differ, and nothing is taken in."""
    SmallTraining(tmp_path, settings={"seed": 0, "model.depth": 2, "lr": 0.1}).save(100)
    other = SmallTraining(tmp_path, settings={"seed": 0, "model.depth": 3, "lr": 0.1})
    before = other.tensors()
    with pytest.raises(RunError, match=r"another run: model\.depth \(2 there, 3 now\); remove the folder"):
        other.checkpoints.load_newest()
    assert other.equals(before)


def test_state_of_another_model_is_refused(tmp_path: Path) -> None:
    """K5: even with equal settings, weights that are not all there are not half loaded in silence."""
    SmallTraining(tmp_path, width=4).save(100)
    with pytest.raises(RunError, match=r"does not hold all of weight/1\.weight"):
        SmallTraining(tmp_path, width=6).checkpoints.load_newest()


def test_other_versions_are_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """K6: another torch may compute other bits; the run goes on and says so. Another format is refused."""
    SmallTraining(tmp_path).save(100)
    path = tmp_path / "step_00000100" / "manifest.json"
    path.write_text(path.read_text().replace(f'"torch": "{torch.__version__}"', '"torch": "1.0"'))
    assert newest_step(tmp_path) == 100
    assert {record.getMessage() for record in caplog.records} == {
        f"{path.parent}: written with torch 1.0, this is {torch.__version__}"
    }
    path.write_text(path.read_text().replace(f'"format": {manifest.FORMAT}', '"format": 0'))
    with pytest.raises(RunError, match="written by another version of nepa_scale"):
        newest_step(tmp_path)


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    """K10: pickles in place of the shard, with a manifest that vouches for them, are no more than unreadable."""
    SmallTraining(tmp_path / "run").save(100)
    path, mark = tmp_path / "run" / "step_00000100", tmp_path / "executed"
    for write in (lambda file: pickle.dump(Payload(mark), file), lambda file: torch.save(Payload(mark), file)):
        with (path / SHARD).open("wb") as file:
            write(file)
        content = json.loads((path / "manifest.json").read_text())
        data = (path / SHARD).read_bytes()
        content["files"][SHARD] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (path / "manifest.json").write_text(json.dumps(content))
        with pytest.raises(RunError, match=r"(?i)header"):
            newest_step(tmp_path / "run")
        assert not mark.exists()
    pickle.loads(pickle.dumps(Payload(mark)))  # the payload is a real one
    assert mark.exists()


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_newest_checkpoints_are_kept(tmp_path: Path, keep: int) -> None:
    """Exactly ``keep`` checkpoints stay, the newest ones."""
    SmallTraining(tmp_path, keep=keep).save(8, 9, 10, 11)
    assert [path.name for path in manifest.tags(tmp_path)] == [f"step_{step:08d}" for step in (8, 9, 10, 11)][-keep:]


def test_damaged_checkpoint_does_not_push_out_a_whole_one(tmp_path: Path) -> None:
    """After falling back behind a damaged checkpoint, what is saved next is kept, not the damaged one."""
    SmallTraining(tmp_path).save(200, 300)
    truncate(tmp_path / "step_00000300" / SHARD)
    SmallTraining(tmp_path, keep=1).save(250)
    assert [path.name for path in manifest.tags(tmp_path)] == ["step_00000250"]


def test_checkpoint_of_a_step_is_replaced(tmp_path: Path) -> None:
    """Saving a step again leaves nothing of what stood there, so a damaged checkpoint heals."""
    SmallTraining(tmp_path).save(100)
    flip(tmp_path / "step_00000100" / SHARD)
    (tmp_path / "step_00000100" / "stray").write_text("stray")
    training = SmallTraining(tmp_path)
    training.save(100)
    other = SmallTraining(tmp_path)
    assert other.checkpoints.load_newest() == 100
    assert other.equals(training.tensors())
    assert names(tmp_path / "step_00000100") == ["manifest.json", SHARD]


def test_retention_touches_checkpoints_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """S6: other names stay, and so does what a link of a checkpoint's name points to; that is logged, no more."""
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "run"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("precious")
    folder.mkdir()
    for name in ("step_of_mine", "step_00000001.old", "notes"):
        (folder / name).mkdir()
    for name in ("step_00000001", "step_00000002.tmp"):
        (folder / name).symlink_to(elsewhere)
    SmallTraining(folder, keep=1).save(5, 6)
    assert (elsewhere / "precious").read_text() == "precious"
    assert {"step_of_mine", "step_00000001.old", "notes", "step_00000006"} < set(names(folder))
    assert "step_00000005" not in names(folder)
    assert any("not removed" in record.getMessage() for record in caplog.records)
    assert newest_step(folder) == 6


def test_run_folder_may_be_a_link(tmp_path: Path) -> None:
    """S6: a run directory on another disk, reached through a link, works as any."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    SmallTraining(tmp_path / "run", keep=1).save(5, 6)
    assert [path.name for path in manifest.tags(tmp_path / "disk")] == ["step_00000006"]


def test_reader_keeps_what_it_has_open(tmp_path: Path) -> None:
    """K12: retention takes nothing from under a reader that has the files open."""
    training = SmallTraining(tmp_path, keep=1)
    training.save(1)
    weight = training.module[1].bias.detach().clone()
    with safetensors.safe_open(tmp_path / "step_00000001" / SHARD, framework="pt") as content:
        training.save(2)
        assert not (tmp_path / "step_00000001").exists()
        assert torch.equal(content.get_tensor("weight/1.bias"), weight)


def test_asynchronous_checkpoint_is_of_the_moment_it_was_asked_for(tmp_path: Path) -> None:
    """Steps taken while the file is written do not get into it; it counts once ``finish`` has committed it."""
    training, other = SmallTraining(tmp_path, asynchronous=True), SmallTraining(tmp_path)
    for step in (100, 200):
        training.save(step, wait=False)
        expected = training.tensors()
        training.train(3)
        assert not (tmp_path / f"step_{step:08d}").exists()
        training.checkpoints.finish()
        assert not training.checkpoints.writing
        assert other.checkpoints.load_newest() == step
        assert other.equals(expected)


def test_next_save_commits_the_one_in_flight(tmp_path: Path) -> None:
    """At most one is in flight, and none is lost."""
    training = SmallTraining(tmp_path, asynchronous=True)
    training.save(1, 2, 3, wait=False)
    assert [path.name for path in manifest.tags(tmp_path)] == ["step_00000001", "step_00000002"]
    training.checkpoints.save(4)
    assert [path.name for path in manifest.tags(tmp_path)] == [f"step_0000000{step}" for step in range(1, 5)]
