"""What a study is and is not, and which of its pre-trainings say little: from what is recorded, and nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeStudy
from pages import Page
from study_files import write_json

from analysis.findings.about import about, near_baseline, resolution
from analysis.reporting.render import render
from analysis.study.records import read_study


def change(path: Path, task: str, edit: Callable[[dict[str, Any]], object], run: str = "*") -> None:
    """Edit result.json of ``task`` of the runs that ``run`` matches."""
    for file in path.glob(f"runs/{run}/{task}/result.json"):
        content = json.loads(file.read_text())
        edit(content)
        write_json(file, content)


def test_own_words_stand_on_the_page(make_study: MakeStudy) -> None:
    """``study.about`` is shown as text, whatever it holds; without it there is none."""
    path = make_study(sizes={"micro": 98_304})
    assert about(read_study(path)).own is None
    plan = json.loads((path / "plan.json").read_text())
    write_json(path / "plan.json", plan | {"about": "Scenes <b>only</b>."})
    study = read_study(path)
    assert about(study).own == "Scenes <b>only</b>."
    page = Page(render(study, []))
    assert "Scenes <b>only</b>." in "".join(page.text) and "b" not in page.tags


def test_what_is_recorded_is_told(make_study: MakeStudy) -> None:
    """Sizes, parameters, images of every task, seeds and starts; validation images once they are recorded."""
    path = make_study(seeds=(0, 1))
    told = " ".join(about(read_study(path)).is_).replace("\u00a0", " ")
    for fact in ("5 model sizes", "nano, micro", "25 k to 6.29 M", "4,000 different images", "192,000", "2 seeds"):
        assert fact in told
    change(path, "pretrain", lambda content: content["config"].update({"pretrain.dataset": "cats", "x": None}))
    assert "on cats" in " ".join(about(read_study(path)).is_)


def test_a_top1_is_as_fine_as_its_images(make_study: MakeStudy) -> None:
    """The standard error is that of the binomial; results of before, without a count, say nothing."""
    path = make_study()
    assert resolution(read_study(path)) == ""
    change(path, "classify", lambda content: content.update(validation_images=400))
    change(path, "classify", lambda content: content["metrics"].update(top1=0.5))
    study = read_study(path)
    assert math.sqrt(0.25 / 400) == pytest.approx(0.025)
    assert "400 validation images" in resolution(study) and "2.5 points" in resolution(study)
    assert set(study.table.loc[study.table["task"] == "classify", "validation_images"]) == {400}


def test_how_settings_were_chosen_is_told(make_study: MakeStudy) -> None:
    """By the scores of the page, which are then a little too good, or by tuning images, which spares them that."""
    path = make_study(seeds=(0, 1))
    assert "No setting was searched" in " ".join(about(read_study(path)).is_)
    plan = json.loads((path / "plan.json").read_text())
    plan["axes"].append("classify.base_lr")
    for run in plan["runs"]:
        run["values"]["classify.base_lr"] = 1e-3
    write_json(path / "plan.json", plan)
    own = about(read_study(path))
    assert "classify.base_lr" in " ".join(own.is_) and "too good" in " ".join(own.is_not)
    change(path, "classify", lambda content: content["metrics"].update(tuning_top1=0.4))
    tuned = about(read_study(path))
    assert "tuning images" in " ".join(tuned.is_) and "too good" not in " ".join(tuned.is_not)


@pytest.mark.parametrize(
    ("changes", "words", "there"),
    [
        ({"seeds": (0,)}, "one seed", True),
        ({"seeds": (0, 1)}, "one seed", False),
        ({"scratch": False}, "no control from scratch", True),
        ({"scratch": True}, "no control from scratch", False),
        ({"sizes": {"base": 90_000_000}}, "not the paper's scale", False),
        ({"sizes": {"nano": 25_000}}, "not the paper's scale", True),
    ],
)
def test_limits_follow_from_what_was_done(
    make_study: MakeStudy, changes: dict[str, Any], words: str, there: bool
) -> None:
    """Each limit is told where it holds, and nowhere else."""
    assert (words in " ".join(about(read_study(make_study(**changes))).is_not)) == there


def test_mixed_precisions_are_told(make_study: MakeStudy) -> None:
    """A study whose runs compute in different number formats says so and names them; one format is not worth a word."""
    path = make_study(scratch=False)
    change(path, "pretrain", lambda content: content["config"].update({"engine.precision": "fp32"}))
    assert "number format" not in " ".join(about(read_study(path)).is_not)
    change(path, "pretrain", lambda content: content["config"].update({"engine.precision": "bf16"}), "nano-*")
    assert "engine.precision is bf16 and fp32" in " ".join(about(read_study(path)).is_not)


def test_pretrainings_near_a_baseline_are_named(make_study: MakeStudy) -> None:
    """Skill of 0, a constant answer that comes near, or a target that is mostly one vector: named, and no others."""
    path = make_study(scratch=False)
    assert near_baseline(read_study(path)) == []
    change(path, "pretrain", lambda content: content["metrics"].update(skill=-0.01), "nano-*")
    change(path, "pretrain", lambda content: content["metrics"].update(mean_baseline=0.95), "mini-*")
    energy = {"patch_energy": {"mean_colour": 0.8, "mean_patch": 0.55}}
    change(path, "pretrain", lambda content: content.update(details=energy), "tiny-*")
    change(path, "pretrain", lambda content: content.update(details={"patch_energy": "?"}), "small-*")
    named = near_baseline(read_study(path))
    assert [line.split(" ")[0] for line in named] == ["nano", "mini", "tiny"]
    assert "tiny-pretrain-s0" in named[2]
    assert "0.95" in named[1] and "55%" in named[2]
    text = "".join(Page(render(read_study(path), [])).text)
    assert all(line in text for line in named)
    change(path, "pretrain", lambda content: content["config"].update({"data.mean": "image"}), "tiny-*")
    change(path, "pretrain", lambda content: content["config"].update({"pretrain.shift": False}), "nano-*")
    assert [line.split(" ")[0] for line in near_baseline(read_study(path))] == ["mini"]
