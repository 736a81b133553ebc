"""The index of a data set: made once, true to its shards, and quick at the size of ImageNet."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import shutil
import tarfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from nepa_scale.data.index import INDEX_FOLDER, ensure_index, index_folder, write_index
from nepa_scale.data.layout import check_contents, dataset_info
from nepa_scale.data.sampler import SampleOrder
from nepa_scale.data.shard_index import SAMPLE_TYPE
from nepa_scale.data.sources import open_source
from nepa_scale.utils.errors import DataError
from nepa_scale.utils.progress import logger


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def indexed(root: Path) -> Path:
    """Index the data set "toy" as ``prepare`` does; returns its folder."""
    folder = root / "toy"
    write_index(folder, dataset_info(root, "toy"), folder / INDEX_FOLDER)
    return folder


def rewrite(path: Path, change) -> None:
    """Write a shard anew with its list of (name, content) changed."""
    with tarfile.open(path) as archive:
        files = [(member.name, archive.extractfile(member).read()) for member in archive]
    with tarfile.open(path, "w") as archive:
        for name, content in change(files):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_the_index_is_that_of_tarfile(write_shards) -> None:
    """Offsets, sizes, keys and labels of every sample of every shard, in the order of the shards."""
    root = write_shards(train=(3, 1, 4))
    index = ensure_index(root / "toy", dataset_info(root, "toy"))["train"]
    expected = []
    for path in sorted((root / "toy").glob("train-*.tar")):
        with tarfile.open(path) as archive:
            members = {member.name: member for member in archive}
            for name, member in members.items():
                if name.endswith(".png") and not name.endswith(".seg.png"):
                    label = int(archive.extractfile(members[name.replace(".png", ".cls")]).read())
                    expected.append((name.removesuffix(".png").encode(), member.offset_data, member.size, label))
    columns = (index.samples[name].tolist() for name in ("image_offset", "image_size", "label"))
    assert list(zip(index.keys.tolist(), *columns, strict=True)) == expected
    assert index.lengths.tolist() == [3, 1, 4]


def test_an_own_index_is_used_and_a_folder_without_one_is_left_alone(write_shards, own_cache: Path) -> None:
    """``prepare``'s index is read where it is; for other folders it goes to the cache, and nothing is added."""
    root = write_shards()
    before = sorted(path.name for path in (root / "toy").iterdir())
    ensure_index(root / "toy", dataset_info(root, "toy"))
    assert sorted(path.name for path in (root / "toy").iterdir()) == before
    assert index_folder(root / "toy").is_relative_to(own_cache)
    assert index_folder(indexed(root)) == root / "toy" / INDEX_FOLDER


def test_a_second_look_scans_nothing(write_shards, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening again reads the index, not the shards."""
    root = write_shards()
    first = ensure_index(root / "toy", dataset_info(root, "toy"))["train"]
    monkeypatch.setattr(tarfile, "open", None)
    second = ensure_index(root / "toy", dataset_info(root, "toy"))["train"]
    np.testing.assert_array_equal(first.samples, second.samples)


@pytest.mark.parametrize("damage", [b"", b"junk", b"PK\x03\x04 half a file"])
def test_a_damaged_index_is_made_anew(write_shards, damage: bytes) -> None:
    """Half-written or foreign files lead to a fresh scan, never to a wrong index."""
    root = write_shards()
    folder = indexed(root)
    expected = ensure_index(folder, dataset_info(root, "toy"))["train"].samples
    (folder / INDEX_FOLDER / "train.npz").write_bytes(damage)
    np.testing.assert_array_equal(ensure_index(folder, dataset_info(root, "toy"))["train"].samples, expected)


def test_an_index_with_pickled_objects_is_not_loaded(write_shards, tmp_path: Path) -> None:
    """An index is data: a payload in it is never unpickled."""
    canary = tmp_path / "canary"

    class Payload:
        def __reduce__(self):
            return Path.touch, (canary,)

    root = write_shards()
    folder = indexed(root)
    np.savez(folder / INDEX_FOLDER / "train.npz", version=np.array(1), keys=np.array([Payload()], dtype=object))
    assert len(ensure_index(folder, dataset_info(root, "toy"))["train"].keys) == 9
    assert not canary.exists()


def test_a_cache_that_cannot_be_written_is_no_error(write_shards, tmp_path: Path, monkeypatch) -> None:
    """Data sets can be read where the home folder is read-only or full."""
    blocker = tmp_path / "file"
    blocker.write_text("a file where the cache folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocker))
    root = write_shards()
    assert len(open_source(root, "toy", "train")) == 9


def test_every_bad_shard_is_named_at_once(write_shards) -> None:
    """Missing, empty, cut, foreign and short shards: one line each, before any work starts."""
    root = write_shards(train=(4, 4, 4, 4, 4, 4), validation=(3,))
    folder = root / "toy"
    (folder / "train-000000.tar").unlink()
    (folder / "train-000001.tar").write_bytes(b"")
    os.truncate(folder / "train-000002.tar", 5000)
    (folder / "train-000003.tar").write_text("<html>not found</html>" * 100)
    rewrite(folder / "train-000004.tar", lambda files: files[:-3])
    lines = check_contents(root, "toy")
    assert len(lines) == 5
    for shard, (line, complaint) in enumerate(
        zip(lines, ["is missing", "is empty", "cut off", "not a complete tar", "must hold 4 samples"], strict=True)
    ):
        assert f"train-{shard:06d}.tar" in line
        assert complaint in line


@pytest.mark.parametrize("place", ["own", "cached"])
def test_a_shard_that_changed_since_it_was_indexed_is_refused(write_shards, place: str) -> None:
    """Other labels under the same names and sizes would train on wrong data: refused, with the remedy."""
    root = write_shards()
    folder = indexed(root) if place == "own" else root / "toy"
    ensure_index(folder, dataset_info(root, "toy"))
    for shard in (0, 1):
        swap = lambda files: [(name, b"2" if name.endswith(".cls") else content) for name, content in files]  # noqa: E731
        rewrite(folder / f"train-{shard:06d}.tar", swap)
    with pytest.raises(DataError) as caught:
        open_source(root, "toy", "train")
    lines = str(caught.value).splitlines()
    assert [f"train-{shard:06d}.tar' changed since it was indexed" in lines[shard] for shard in (0, 1)] == [True] * 2
    assert f"re-index it: `python -m nepa_scale.data.prepare index root={root} name=toy`" in lines[2]


def test_a_shard_of_another_size_or_gone_is_refused(write_shards) -> None:
    """A shard that grew is named; one that vanished after indexing comes first."""
    root = write_shards(train=(4, 4))
    folder = indexed(root)
    with (folder / "train-000000.tar").open("ab") as file:
        file.write(bytes(10240))
    (folder / "train-000001.tar").unlink()
    with pytest.raises(DataError, match=r"000001\.tar' is missing"):
        ensure_index(folder, dataset_info(root, "toy"))
    shutil.copyfile(folder / "train-000000.tar", folder / "train-000001.tar")
    with pytest.raises(DataError, match=r"000000\.tar' changed since .*\n.*000001\.tar' changed since"):
        ensure_index(folder, dataset_info(root, "toy"))


def test_a_copy_is_recognised_by_its_content(write_shards, tmp_path: Path) -> None:
    """Copied without its times a data set is scanned once more, found the same, and not scanned again."""
    root = write_shards()
    indexed(root)
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)
    for path in (tmp_path / "copy" / "toy").glob("*.tar"):
        os.utime(path, (1, 1))
    assert len(open_source(tmp_path / "copy", "toy", "train")) == 9
    noted = (tmp_path / "copy" / "toy" / INDEX_FOLDER / "train.npz").stat().st_mtime_ns
    assert len(open_source(tmp_path / "copy", "toy", "train")) == 9
    assert (tmp_path / "copy" / "toy" / INDEX_FOLDER / "train.npz").stat().st_mtime_ns == noted


def test_a_copy_that_cannot_be_written_is_noted_in_the_cache(write_shards, tmp_path: Path, monkeypatch) -> None:
    """On a shared disk with new times the scan happens once for a user, not at every start."""
    root = write_shards()
    folder = indexed(root)
    for path in folder.glob("*.tar"):
        os.utime(path, (1, 1))
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != folder / INDEX_FOLDER and access(path, mode))
    before = (folder / INDEX_FOLDER / "train.npz").read_bytes()
    assert len(open_source(root, "toy", "train")) == 9
    assert (folder / INDEX_FOLDER / "train.npz").read_bytes() == before
    monkeypatch.setattr(tarfile, "open", None)
    assert len(open_source(root, "toy", "validation")) == 3


def test_keys_in_two_shards_are_refused(write_shards) -> None:
    """The same name in two shards means doubled or clashing samples: both shards are named."""
    root = write_shards(train=(2, 2))
    first, second = (root / "toy" / f"train-00000{shard}.tar" for shard in (0, 1))
    rewrite(second, lambda files: [(name.replace("0002", "0001"), content) for name, content in files])
    with pytest.raises(DataError, match=rf"'train_0001' is in '{first}' and '{second}' \(1 such names\)"):
        open_source(root, "toy", "train")


def test_several_processes_index_once(write_shards) -> None:
    """Ranks that start together wait for the first; all get the same index."""
    root = write_shards(train=(6,) * 20)
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("fork")) as pool:
        assert list(pool.map(_count, [root] * 4)) == [120] * 4


def _count(root: Path) -> int:
    return len(open_source(root, "toy", "train"))


def test_other_shards_in_the_info_are_refused(write_shards) -> None:
    """An ``_info.json`` that was changed after indexing does not fit the index."""
    root = write_shards(train=(5, 4))
    folder = indexed(root)
    info = json.loads((folder / "_info.json").read_text())
    info["splits"]["train"] |= {"filenames": ["train-000000.tar"], "shard_lengths": [5], "num_samples": 5}
    (folder / "_info.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match="lists other shards than when it was indexed"):
        ensure_index(folder, dataset_info(root, "toy"))


def test_memory_of_a_plan_follows_from_the_samples() -> None:
    """ImageNet's index and order stay below 200 MB: 40 bytes for places and label, 18 for the name, 8 for the order."""
    keys, samples = np.empty(1_281_167, dtype="S18"), np.empty(1_281_167, SAMPLE_TYPE)
    order = SampleOrder([1251] * 1023 + [1394], 0)
    places = order.epoch(0), order.epoch(1)
    assert len(np.unique(places[1])) == order.num_samples == 1_281_167
    assert sum(array.nbytes for array in (keys, samples, *places)) < 200e6


def test_what_is_not_read_is_told_when_the_index_is_made(write_shards, caplog: pytest.LogCaptureFixture) -> None:
    """One line for the data set, and none where the index is there already."""
    root = write_shards()
    for number in range(2):
        with tarfile.open(root / "toy" / f"train-{number:06d}.tar", "a") as archive:
            archive.addfile(tarfile.TarInfo(f"train_{number:04d}.json"))
    logger.addHandler(caplog.handler)
    assert check_contents(root, "toy") == []
    assert check_contents(root, "toy") == []
    logger.removeHandler(caplog.handler)
    (line,) = {record.getMessage() for record in caplog.records if "not read" in record.getMessage()}
    assert "2 '.json' (such as 'train_0000.json')" in line
