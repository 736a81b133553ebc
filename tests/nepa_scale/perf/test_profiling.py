"""Profiles of training steps: which steps, what is written, and who writes it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from nepa_scale.config.overrides import parse
from nepa_scale.distributed.world import World
from nepa_scale.perf.profiling import Profiling
from nepa_scale.utils.errors import ConfigError

CPU = torch.device("cpu")


def train(folder: Path, profile: str | None, *, start: int = 0, total: int = 6, world: World = World()) -> list[str]:  # noqa: B008
    """Steps of a product each, of which ``profile`` are profiled; the files that are there afterwards."""
    words = ["data=digits"] + ([f"log.profile={profile}"] if profile else [])
    profiling = Profiling(parse(words), folder, world, CPU)
    for number in range(start + 1, total + 1):
        with profiling.step(number, total), profiling.part("data"):
            torch.ones(8, 8) @ torch.ones(8, 8)
    profiling.close()
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_the_trace_has_the_steps_and_the_table_their_costliest_operations(tmp_path: Path) -> None:
    """Of steps 2 to 4 there is a trace with their names and parts, and a table of at most ten operations."""
    assert train(tmp_path, "2:4") == ["steps_2-4.json.gz", "steps_2-4.txt"]
    trace = json.loads(gzip.decompress((tmp_path / "profile" / "steps_2-4.json.gz").read_bytes()))
    names = [event["name"] for event in trace["traceEvents"] if event.get("cat") == "user_annotation"]
    assert sorted(set(names)) == ["data", "step 2", "step 3", "step 4"]
    table = (tmp_path / "profile" / "steps_2-4.txt").read_text()
    assert "aten::mm" in table
    assert len([line for line in table.splitlines() if "%  " in line and "Name" not in line]) <= 10


@pytest.mark.parametrize(
    ("profile", "start", "files"),
    [
        ("5:9", 0, ["steps_5-6.json.gz", "steps_5-6.txt"]),
        ("1:3", 2, ["steps_3-3.json.gz", "steps_3-3.txt"]),
        ("1:2", 2, []),
        (None, 0, []),
    ],
    ids=["ends before", "goes on from the middle", "goes on after", "none"],
)
def test_steps_that_are_not_taken_here(tmp_path: Path, profile: str | None, start: int, files: list[str]) -> None:
    """A training that ends early, or goes on from a checkpoint, writes what it has of them."""
    assert train(tmp_path, profile, start=start) == files


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    """Rank 0 alone profiles."""
    assert train(tmp_path, "1:2", world=World(rank=1, size=2, local_rank=1)) == []


@pytest.mark.parametrize("profile", ["10", "a:b", "5:4", "0:3", "1:2:3", ":"])
def test_what_names_no_steps_is_refused(profile: str) -> None:
    """One line with what would be right."""
    with pytest.raises(ConfigError) as refusal:
        parse(["data=digits", f"log.profile={profile}"])
    assert refusal.value.problems == [f"log.profile={profile}: give the first and the last step, e.g. 10:20"]
