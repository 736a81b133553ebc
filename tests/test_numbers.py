"""Every number that the launcher, training and the preparation of data take: refused by name, or planned at once."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nepa_scale import train
from nepa_scale.config.overrides import KEYS
from nepa_scale.config.schema import RunConfig, walk
from nepa_scale.data.prepare.__main__ import GRAMMAR as PREPARE
from nepa_scale.data.prepare.settings import KINDS as PREPARED
from nepa_scale.utils.cli import LARGEST, to_text
from nepa_scale.utils.errors import ConfigError
from sweeps import launch
from sweeps.settings.conf_files import compose_tree, declared

HOSTILE = ("nan", "inf", "-inf", ".inf", "1e30", "-1e30", "-1", "0", str(10**18), str(-(10**18)), "9" * 5000)
SECONDS = 20.0  # many times what a plan takes
PLAN = ["dry_run=true", "study.sizes=[femto]", "study.tasks=[pretrain]", "cluster.flops_per_second=1e10"]

Command = Callable[[list[str]], int]


def number_types() -> dict[str, str]:
    """{key: type} of the numbers of a run."""
    found = {}
    for key, _, _ in walk(RunConfig()):
        *parents, leaf = key.split(".")
        section: Any = RunConfig()
        for parent in parents:
            section = getattr(section, parent)
        kind = section.__dataclass_fields__[leaf].type
        if kind.removesuffix(" | None") in ("int", "float"):
            found[key] = kind
    return found


def launch_fields(cluster: str) -> dict[str, dataclasses.Field[Any]]:
    """The numbers, and lists of them, of a launch."""
    tree, _ = compose_tree({"cluster": cluster})
    return {key: item for key, item in declared(tree).items() if re.search(r"\b(int|float)\b", str(item.type))}


def said(command: Command, words: list[str]) -> tuple[int, str]:
    """Exit code and complaints of a command, which must be quick."""
    complaints, before = io.StringIO(), time.perf_counter()
    with contextlib.redirect_stderr(complaints), contextlib.redirect_stdout(io.StringIO()):
        code = command(words)
    assert time.perf_counter() - before < SECONDS
    return code, complaints.getvalue()


def accepted(command: Command, keys: Iterable[str], value: Callable[[str], str], words: list[str]) -> list[str]:
    """The ``keys`` that a command does not complain of when each has a value; it complains of all others at once."""
    keys = list(keys)
    code, complaints = said(command, [*words, *(f"{key}={value(key)}" for key in keys)])
    assert code in (0, 2)
    assert all(line.startswith("error: ") for line in complaints.splitlines())
    return [key for key in keys if f"error: {key}=" not in complaints]


def check(command: Command, word: str, words: list[str]) -> None:
    """A command plans, or refuses one word by its key."""
    code, complaints = said(command, [*words, word])
    assert code in (0, 2)
    if code:
        assert all(line.startswith("error: ") for line in complaints.splitlines())
        assert word.partition("=")[0].rsplit(".", 1)[-1] in complaints


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plans name folders, and make none."""
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: value[:8])
def test_numbers_of_training(value: str) -> None:
    """Any number of a run is refused by name, all at once, or planned in a moment."""
    for key in accepted(train.main, number_types(), lambda _: value, ["dry_run=true"]):
        task = key.split(".")[0] if key.split(".")[0] in ("probe", "classify", "segment") else "pretrain"
        start = [] if task == "pretrain" else ["init=scratch"]
        check(train.main, f"{key}={value}", ["dry_run=true", f"task={task}", *start])


@pytest.mark.slow(seconds=4)
@pytest.mark.parametrize("cluster", ["local", "slurm"])
@pytest.mark.parametrize("value", ("nan", ".inf", "1e30", "-1", "0", "9" * 5000), ids=lambda value: value[:8])
def test_numbers_of_launches(value: str, cluster: str) -> None:
    """Any number of a launch, of its lists and of its clusters is refused by name, or planned in a moment."""
    known, words = launch_fields(cluster), [*PLAN, f"cluster={cluster}"]
    if cluster == "slurm":  # the others are refused alike
        known = {key: field for key, field in known.items() if key not in launch_fields("local")}

    def text(key: str) -> str:
        return f"[{value}]" if str(known[key].type).startswith("list") else value

    for key in accepted(launch.main, known, text, words):
        check(launch.main, f"{key}={text(key)}", words)


@pytest.mark.parametrize("key", ["pretrain.epochs", "pretrain.steps", "pretrain.batch_size", "model.depth", "seed"])
def test_numbers_of_runs_in_launches(key: str) -> None:
    """Settings of runs, typed or as values of an axis, are no way around it."""
    for value in ("nan", "1e30", "0", str(10**18)):
        check(launch.main, f"{key}={value}", PLAN)
        check(launch.main, f"grid.axes.{key}=[{value}]", PLAN)


@pytest.mark.slow(seconds=33)
def test_the_largest_value_allowed_is_planned() -> None:
    """What is not refused is planned in bounded time, at the upper end of each range."""
    for key in number_types():
        check(launch.main, f"{key}={to_text(KEYS[key].get('high', LARGEST))}", PLAN)


@pytest.mark.parametrize("budget", ["1e18", "1e30"])
def test_a_budget_beyond_any_training_is_refused(budget: str) -> None:
    """The smallest sizes would take more steps than a training can have."""
    code, complaints = said(launch.main, [*PLAN, "grid=isoflop", f"study.budgets=[{budget}]"])
    assert code == 2
    assert "study.budgets" in complaints and "femto" in complaints


def test_a_task_of_the_most_steps_is_planned_with_a_save_and_an_evaluation_each() -> None:
    """Steps, checkpoints and evaluations are counted, not listed."""
    each = ["checkpoint.every=1", "pretrain.eval_every=1", "pretrain.epochs=1000000", "pretrain.batch_size=1"]
    code, _ = said(launch.main, [*PLAN, *each])
    assert code == 0


@pytest.mark.parametrize("words", [["seeds=5000"], ["seeds=2000", "study.sizes=[femto,pico,nano]"]])
def test_a_grid_of_too_many_points_is_refused_before_it_is_listed(words: list[str]) -> None:
    """The number of points is known from the lengths of the lists."""
    code, complaints = said(launch.main, ["dry_run=true", "grid=isoflop", *words])
    assert code == 2
    assert re.search(r"grid=isoflop: \d+ points; at most 5000", complaints)


@pytest.mark.parametrize("kind", PREPARED)
def test_numbers_of_prepared_data(kind: str) -> None:
    """Any number of the preparation of data is refused by name, or is within the stated range."""
    entries = dataclasses.fields(PREPARED[kind])
    required = [f"{entry.name}=x" for entry in entries if entry.default is dataclasses.MISSING]
    for each in entries:
        if not re.match("int|float", str(each.type)):
            continue
        for value in HOSTILE:
            with contextlib.suppress(ConfigError):
                settings = PREPARE.parse([kind, *required, f"{each.name}={value}"])
                assert 0 <= getattr(settings, each.name) <= LARGEST
