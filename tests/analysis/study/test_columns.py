"""Runs that differ in more than their seed are never averaged under one label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from study_files import result, write_json, write_task

from analysis.findings.comparison import comparison
from analysis.findings.learning_rates import at_edge, tries
from analysis.findings.series import CLASSIFICATION
from analysis.study.columns import OF_WEIGHTS
from analysis.study.records import read_study
from nepa_scale.config.schema import RunConfig

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


TUNED = "classify.base_lr"


def write_tries(path: Path, labels: dict[str, dict[str, dict[float, tuple[float, float]]]], **settings: Any) -> Path:
    """Runs of {label: {start: {rate: (tuning top-1, top-1)}}} with their plan; ``settings`` are of some labels."""
    planned = []
    for label, arms in labels.items():
        for init, rates in arms.items():
            for rate, (tuning, top1) in rates.items():
                run_id = f"{label}-{init}-{rate}"
                scores = {"tuning_top1": tuning, "top1": top1, "top1_majority": 0.1}
                outcome = result(run_id, "classify", init, "nano", 25_000, 0, scores)
                outcome["config"] |= {TUNED: rate, "pretrain.steps": label} | settings.get(label, {})
                write_task(path, run_id, "classify", outcome)
                run = {"run_id": run_id, "label": label, "init": init, "values": {}, "tasks": {"classify": {}}}
                planned.append(run | {"tuned": {TUNED: rate}})
    write_json(
        path / "plan.json", {"schema": 1, "study": "t", "grid": "g", "axes": ["pretrain.steps"], "runs": planned}
    )
    return path


SCORES_AT = {0.02: (0.3, 0.3), 0.06: (0.5, 0.5), 0.2: (0.4, 0.4)}
SPLIT = {
    "short": {"pretrain": SCORES_AT, "scratch": {0.02: SCORES_AT[0.02]}},
    "long": {"pretrain": {0.06: (0.5, 0.6), 0.2: (0.4, 0.4)}, "scratch": {r: SCORES_AT[r] for r in (0.06, 0.2)}},
}


def test_a_control_under_two_labels_is_one_arm(tmp_path: Path) -> None:
    """A second launch names the controls anew that it plans, too: of three rates one is chosen, at no edge."""
    study = read_study(write_tries(tmp_path, SPLIT))
    control = study.table[study.table["init"] == "scratch"]
    assert control[f"config.{TUNED}"].to_list() == [0.06]
    assert comparison(study, CLASSIFICATION).rows["scratch"].to_dict() == {"short": 0.5, "long": 0.5}
    assert set(at_edge(tries(study, TUNED))["arm"]) == {"pretrained"}
    assert set(study.tried.loc[study.tried["init"] == "pretrain", "label"]) == {"short", "long"}


def test_controls_of_other_settings_are_arms_of_their_own(tmp_path: Path) -> None:
    """Also where the results of an older version do not record the setting, which then had its default."""
    other = {"classify.optimizer": "muon"}
    study = read_study(write_tries(tmp_path, SPLIT, long=other))
    control = study.table[study.table["init"] == "scratch"]
    assert sorted(control[f"config.{TUNED}"]) == [0.02, 0.06]
    assert control["label"].nunique() == 2


def paired(path: Path, pretrained: dict[str, Any], control: dict[str, Any]) -> bool:
    """Whether a run and a control with these settings, beside what both have, are compared."""
    write_run(path, "own", 0.6, **pretrained)
    write_run(path, "control", 0.5, "scratch", **control)
    rows = comparison(read_study(path), CLASSIFICATION).rows
    return bool((rows["pretrained"].notna() & rows["scratch"].notna()).any())


@pytest.mark.parametrize("key", sorted(key for key in OF_WEIGHTS if key.startswith("classify.")))
def test_a_control_has_no_part_in_what_is_done_with_weights(tmp_path: Path, key: str) -> None:
    """Which blocks start pre-trained, and how much more slowly these learn, is nothing to a start from scratch."""
    assert key in RunConfig().flat()
    assert paired(tmp_path, {key: 1}, {key: 2})


@pytest.mark.parametrize(
    ("own", "control", "same"),
    [
        ({"data.mean": "0.4"}, {"data.mean": "0.4,0.4,0.40"}, True),
        ({"data.std": "0.2,0.3,0.4"}, {"data.std": "0.20,0.30,0.40"}, True),
        ({"data.mean": "0.4"}, {"data.mean": "0.5"}, False),
        ({"data.mean": "image"}, {"data.mean": "dataset"}, False),
        ({"classify.decay": 0.1, "classify.schedule": "cosine"}, {"classify.decay": 0.2}, True),
        ({"classify.decay": 0.1, "classify.schedule": "wsd"}, {"classify.decay": 0.2}, False),
        ({"classify.label_list": "lists/l.txt"}, {"classify.label_list": "/a/lists/l.txt"}, True),
        ({"classify.label_list": "lists/l.txt"}, {"classify.label_list": "/a/l.txt"}, False),
        ({"classify.label_list": "/a/l.txt"}, {"classify.label_list": "/b/l.txt"}, False),
        ({"classify.label_list": "l.txt"}, {"classify.label_list": None}, False),
    ],
)
def test_settings_are_compared_by_what_they_mean(
    tmp_path: Path, own: dict[str, Any], control: dict[str, Any], same: bool
) -> None:
    """Spellings of one value, which ``run_id`` does not tell apart, make a pair; other values do not."""
    assert paired(tmp_path, own, {**own, **control}) is same
