"""The commands and settings that messages advise do what they promise: each is taken from its message and run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import imagenet, parquet
from trees import images, kaggle_imagenet, tiny_imagenet, write_files

from nepa_scale.config.overrides import parse
from nepa_scale.data.layout import access_problems, check_contents, check_dataset, too_few_shards
from nepa_scale.data.prepare.__main__ import main
from nepa_scale.utils.errors import ConfigError


def run(message: str) -> int:
    """Run the command that a message names between backticks, without its own processes."""
    words = shlex.split(message.split("`")[1])
    assert words[:3] == ["python", "-m", "nepa_scale.data.prepare"]
    return main(words[3:])


TRAINING = ("train/a/1.jpg", "train/a/2.jpg", "train/b/1.jpg", "train/b/2.jpg")
SOURCES = {
    "class folders": lambda folder: write_files(folder, images(*TRAINING, "valid/a/1.jpg")),
    "class folders without validation": lambda folder: write_files(folder, images(*TRAINING)),
    "tiny imagenet": tiny_imagenet,
    "kaggle's imagenet": kaggle_imagenet,
    "archives": imagenet,
    "parquet": parquet,
}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        *((source, "plain") for source in SOURCES),
        *(("class folders", name) for name in ("with space", ".hidden", "PATH")),
    ],
)
def test_a_source_is_answered_with_the_command_that_prepares_it(tmp_path: Path, source: str, name: str) -> None:
    """Whatever was downloaded, and named by its folder in the root or by a path: the command makes a usable set."""
    root = tmp_path / "a root"
    root.mkdir()
    name = str(tmp_path / "elsewhere" / "it's here") if name == "PATH" else name
    SOURCES[source](root / name)
    (problem,) = check_dataset(root, name, needs={"label"})
    assert run(problem) == 0
    (setting,) = shlex.split(problem.rpartition("use ")[2])
    config = parse(["task=pretrain", f"data.root={root}", setting])
    assert check_dataset(root, config.pretrain.dataset, needs={"label"}) == []


def test_a_folder_of_images_is_answered_with_the_command_that_prepares_it(tmp_path: Path) -> None:
    """Photographs without labels, in the root itself: the command gives what pre-training reads."""
    write_files(tmp_path / "my photos", images("1.jpg", "2.jpg", "a/3.png"))
    (problem,) = check_dataset(tmp_path, "my photos")
    assert run(problem) == 0
    (setting,) = shlex.split(problem.rpartition("use ")[2])
    config = parse(["task=pretrain", f"data.root={tmp_path}", setting])
    assert check_dataset(tmp_path, config.pretrain.dataset) == []


def test_compressed_shards_are_told_to_be_unpacked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By training and by adopting them, in one line each, beside shards that are not compressed or alone."""
    for name in ("train-0.tar.gz", "train-1.tgz", "val-0.tar.zst"):
        write_files(tmp_path / "packed", {name: "x"})
    [problem] = check_dataset(tmp_path, "packed")
    assert "train-0.tar.gz, train-1.tgz, val-0.tar.zst; unpack them to .tar" in problem
    write_files(tmp_path / "packed", {"val-1.tar": "x"})
    assert main(["adopt", f"root={tmp_path}", "name=packed", "workers=1"]) == 2
    assert capsys.readouterr().err == f"error: {problem}\n"


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("model.in_chans=1", "unknown key 'model.in_chans': images of every kind are read as 3 channels, RGB"),
        ("pretrain.image_size=64x48", "pretrain.image_size=64x48: expected a whole number; inputs are square"),
    ],
)
def test_other_inputs_are_refused(word: str, complaint: str) -> None:
    """Other channels and rectangles are told for what they are."""
    with pytest.raises(ConfigError) as raised:
        parse([word])
    assert raised.value.problems == [complaint]


def test_shards_without_a_table_of_contents(write_shards: Callable[..., Path]) -> None:
    """Adopting them is advised."""
    root = write_shards("my shards")
    (root / "my shards" / "_info.json").unlink()
    (problem,) = check_dataset(root, "my shards")
    assert run(problem) == 0
    assert check_dataset(root, "my shards", needs={"label"}) == []


def test_a_changed_shard(write_shards: Callable[..., Path]) -> None:
    """Indexing anew is advised."""
    root = write_shards("my shards")
    assert main(["index", f"root={root}", "name=my shards"]) == 0
    shard = root / "my shards" / "train-000000.tar"
    shard.write_bytes(shard.read_bytes() + bytes(10240))
    problems = check_contents(root, "my shards")
    assert run(problems[-1]) == 0
    assert check_contents(root, "my shards") == []


@pytest.mark.slow(seconds=5)
def test_the_embedded_set_in_another_root(tmp_path: Path) -> None:
    """Writing it there is advised."""
    (problem,) = check_dataset(tmp_path / "a root", "digits")
    assert run(problem) == 0
    assert check_dataset(tmp_path / "a root", "digits") == []


def test_streaming_from_a_folder_of_ade20k(ade_root: Path) -> None:
    """Both ways out are named, and both work."""
    (problem,) = access_problems(ade_root, "street", streaming=True, allow_remote=False)
    assert "data.streaming=false" in problem
    assert access_problems(ade_root, "street", streaming=False, allow_remote=False) == []
    assert run(problem) == 0
    name = problem.rpartition("data=")[2]
    assert check_dataset(ade_root, name, needs={"mask"}) == []
    assert access_problems(ade_root, name, streaming=True, allow_remote=False) == []


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize(("shards", "devices", "workers"), [(8, 3, 3), (3, 3, 2), (2, 4, 1), (2, 4, 6)])
def test_shards_that_do_not_suffice(shards: int, devices: int, workers: int, remote: bool) -> None:
    """Fewer workers are advised only where they help, reading by index only where it is possible."""
    problem = too_few_shards(shards, devices, workers, remote=remote)
    assert problem is not None
    advised = re.search(r"data\.num_workers=(\d+)", problem)
    assert bool(advised) == (shards >= devices)
    if advised:
        assert too_few_shards(shards, devices, int(advised[1]), remote=remote) is None
    assert ("data.streaming=false" in problem) == (not remote)
