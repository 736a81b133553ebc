"""Tuned settings that are null, words or booleans, or that a start ignores: what is said of them and of their edges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study_files import write_json, write_task
from tried_studies import KEY, Tried, write_tried

from analysis.findings.learning_rates import tries, tuned_rates
from analysis.findings.text import MISSING
from analysis.reporting.build import answer, write_report
from analysis.reporting.figures.sensitivity import tuned_plot
from analysis.reporting.page import result_table
from analysis.study.records import read_study

PEAK = {0.003: 0.5, 0.01: 0.6, 0.03: 0.5}


@pytest.mark.parametrize(
    ("scratch", "verdict", "said"), [((0.6, 0.5, 0.4), "Cannot say", "null"), ((0.1, 0.2, 0.4), "No", "0.01")]
)
def test_null_is_a_value_without_a_place(tmp_path: Path, scratch: tuple[float, ...], verdict: str, said: str) -> None:
    """Where null is best it is listed as chosen; it is at no edge, on no axis, and in the table by its name."""
    tops = {"pretrain": (0.6, 0.5, 0.4), "scratch": scratch}
    arms = {
        ("femto", start, 0): {value: (top, 0.5) for value, top in zip((None, 0.001, 0.01), of_start, strict=True)}
        for start, of_start in tops.items()
    }
    study = read_study(write_tried(tmp_path, Tried(arms, key="classify.head_lr")))
    (finding,) = tuned_rates(study)
    assert finding.verdict == verdict
    assert "Of 0.001, 0.01, null, " in finding.answer
    assert f"pretrained: femto null; from scratch: femto {said}." in finding.answer
    assert "pretrained femto" not in finding.answer.partition("edge")[2]
    plot = tuned_plot(study, "classify.head_lr")
    assert plot is not None and "nan" not in plot.alt
    dots = [x for line in plot.figure.axes[0].lines for x in np.asarray(line.get_xdata(), float)]
    assert set(dots) == {0.001, 0.01}
    table = result_table(study, "classify")
    assert [row[table.head.index("classify.head_lr")] for row in table.rows] == ["null", "0.001", "0.01"] * 2


def test_a_rate_that_is_not_recorded_is_not_null(tmp_path: Path) -> None:
    """A setting that is never null has no such value: a run without a record of it takes no part, and has a dash."""
    path = write_tried(tmp_path, Tried({("femto", "pretrain", 0): {rate: (top, 0.5) for rate, top in PEAK.items()}}))
    plan = json.loads((path / "plan.json").read_text())
    plan["runs"][0]["tuned"] = {}
    write_json(path / "plan.json", plan)
    outcome = path / "runs" / plan["runs"][0]["run_id"] / "classify" / "result.json"
    content = json.loads(outcome.read_text())
    del content["config"][KEY]
    write_json(outcome, content)
    study = read_study(path)
    assert tries(study, KEY)["value"].tolist() == [0.01, 0.03]
    table = result_table(study, "classify")
    assert [row[table.head.index(KEY)] for row in table.rows] == [MISSING, "0.01", "0.03"]


@pytest.mark.parametrize(
    ("key", "values", "texts"),
    [
        ("classify.attention", ("causal", "bidirectional"), ["causal", "bidirectional"]),
        ("classify.auto_augment", (None, "rand-m9"), ["null", "rand-m9"]),
        ("classify.freeze_patch_embed", (False, True), ["false", "true"]),
    ],
)
def test_what_is_no_number_has_a_page_and_no_edge(
    tmp_path: Path, key: str, values: tuple[Any, ...], texts: list[str]
) -> None:
    """Words and booleans are listed and stand in the table of results; nothing lies beyond them."""
    arms = {
        ("femto", start, 0): {value: (0.4 + 0.1 * place, 0.5) for place, value in enumerate(values)}
        for start in ("pretrain", "scratch")
    }
    path = write_tried(tmp_path, Tried(arms, key=key))
    plan = json.loads((path / "plan.json").read_text())
    plan["runs"].append({**plan["runs"][0], "run_id": "own", "tasks": {"pretrain": {}}, "tuned": {}})
    write_json(path / "plan.json", plan)  # a run without a value: in its column booleans are read as numbers
    found = answer(path)
    (finding,) = [finding for finding in found.findings if key in finding.question]
    assert finding.verdict == "Cannot say" and "edge" not in finding.answer
    assert finding.answer.count(f"femto {texts[1]}") == 2
    write_report(found.study, found.findings)
    table = result_table(found.study, "classify")
    assert [row[table.head.index(key)] for row in table.rows] == texts * 2
    assert tuned_plot(found.study, key) is None


def test_what_a_start_ignores_has_no_edge(tmp_path: Path) -> None:
    """From scratch all decays of the rate by layer give one score: the lowest stands for them, and is no edge."""
    ignored: dict[Any, Any] = {
        ("femto", "scratch", seed): dict.fromkeys((0.5, 0.65, 0.8), (0.4 - 0.1 * seed, 0.5)) for seed in (0, 1)
    }
    heeded = {("femto", "pretrain", 0): {0.5: (0.5, 0.5), 0.65: (0.6, 0.5), 0.8: (0.5, 0.5)}}
    for arms, verdict in ((ignored | heeded, "Yes"), (ignored, "Cannot say")):
        path = write_tried(tmp_path / verdict, Tried(arms, key="classify.layer_decay"))
        (finding,) = tuned_rates(read_study(path))
        assert finding.verdict == verdict and "edge" not in finding.answer


def test_what_a_start_ignores_has_no_edge_beside_a_rate(tmp_path: Path) -> None:
    """Of two tuned settings one is ignored: at each value of the other all of its scores are the same."""
    path = write_tried(tmp_path, Tried({("femto", "scratch", 0): {rate: (top, 0.5) for rate, top in PEAK.items()}}))
    plan = json.loads((path / "plan.json").read_text())
    for run in list(plan["runs"]):
        content = json.loads((path / "runs" / run["run_id"] / "classify" / "result.json").read_text())
        for decay in (0.5, 0.8):
            content["run_id"] = f"{run['run_id']}-{decay}"
            write_task(path, content["run_id"], "classify", content)
            tuned = {**run["tuned"], "classify.layer_decay": decay}
            plan["runs"].append({**run, "run_id": content["run_id"], "tuned": tuned})
        run["tuned"] |= {"classify.layer_decay": 0.65}
    write_json(path / "plan.json", plan)
    rates, decays = tuned_rates(read_study(path))
    assert rates.verdict == "Yes"
    assert decays.verdict == "Cannot say" and "edge" not in decays.answer
