"""Runs that differ in more than their seed are never averaged under one label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from study_files import result, write_task

from analysis.findings.comparison import comparison
from analysis.findings.series import CLASSIFICATION
from analysis.study.records import read_study

TASKS = {"pretrain": ("pretrain", "classify"), "scratch": ("classify",), "weights/a": ("classify",)}


def write_run(path: Path, run_id: str, top1: float, init: str = "pretrain", seed: int = 0, **settings: Any) -> None:
    """A finished run of size nano, as launches of several settings into one folder leave it."""
    for task in TASKS[init]:
        scores = {"skill": 0.5} if task == "pretrain" else {"top1": top1, "top1_majority": 0.1}
        outcome = result(run_id, task, init, "nano", 25_000, seed, scores)
        outcome["config"] |= {key.replace("__", "."): value for key, value in settings.items()}
        write_task(path, run_id, task, outcome)


def scores(path: Path, column: str) -> dict[str, float]:
    """{label: mean top-1} of a column of the comparison."""
    found: dict[str, float] = comparison(read_study(path), CLASSIFICATION).rows[column].dropna().to_dict()
    return found


@pytest.mark.parametrize("init", list(TASKS))
def test_two_launches_into_one_folder_are_two_labels(tmp_path: Path, init: str) -> None:
    """The setting that differs is named, seeds of either are averaged, and where work was done does not count."""
    for value, top1 in ((0.001, 0.2), (0.003, 0.6)):
        for seed in (0, 1):
            write_run(tmp_path, f"{value}-{seed}", top1 + seed / 5, init, seed, classify__base_lr=value, run_dir=value)
    column = {"pretrain": "pretrained", "scratch": "scratch"}.get(init, "other weights")
    expected = {"nano classify.base_lr=0.001": 0.3, "nano classify.base_lr=0.003": 0.7}
    assert scores(tmp_path, column) == pytest.approx(expected)


def test_settings_of_pretraining_tell_apart_what_rests_on_it(tmp_path: Path) -> None:
    """They have no say in controls from scratch, which stay the controls of all."""
    for steps, top1 in ((10, 0.2), (20, 0.6)):
        write_run(tmp_path, f"p{steps}", top1, pretrain__steps=steps)
        write_run(tmp_path, f"s{steps}", 0.1, "scratch", seed=steps, pretrain__steps=steps)
    labels = ["nano pretrain.steps=10", "nano pretrain.steps=20"]
    assert scores(tmp_path, "pretrained") == dict(zip(labels, (0.2, 0.6), strict=True))
    assert scores(tmp_path, "scratch") == dict.fromkeys(labels, 0.1)


def test_no_more_settings_are_named_than_it_takes(tmp_path: Path) -> None:
    """Settings that differ together are told by the first of them."""
    for value in (1, 2):
        write_run(tmp_path, f"r{value}", 0.5, classify__epochs=value, classify__warmup=value)
    assert set(scores(tmp_path, "pretrained")) == {"nano classify.epochs=1", "nano classify.epochs=2"}
