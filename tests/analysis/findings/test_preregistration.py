"""What is expected of runs to come, written down once, and beside the outcome."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeStudy
from scipy import stats
from study_files import result, write_json, write_task

from analysis.findings.preregistration import Candidate, Registered, check_predictions, expectations
from analysis.findings.preregistration import registered as all_registered
from analysis.study.files import PREDICTIONS, predicted_runs, read_predictions, write_predictions
from analysis.study.records import read_study
from nepa_scale.utils.errors import UserError

SMALL = Candidate("small-pretrain-s0", "small", 6_291_456, 10**12)
TOP1 = ("classify", "params_backbone")


def entry_of(study: Path, *candidates: Candidate, place: tuple[str, str] = TOP1) -> dict[str, object]:
    """What is expected of one error along one axis."""
    entries = expectations(read_study(study), candidates)
    return next(each for each in entries if (each["task"], each["axis"]) == place)


def test_an_exact_law_is_continued(make_study: MakeStudy) -> None:
    """Errors of 4 N^-0.2 without noise: the expectation is the law itself, whatever the run itself came to."""
    study = make_study(noise=0.0)
    result = study / "runs" / SMALL.run_id / "classify" / "result.json"
    content = json.loads(result.read_text())
    content["metrics"]["top1"] = 0.01  # must not be looked at
    write_json(result, content)
    entry = entry_of(study, SMALL)
    (expected,) = entry["expected"]  # type: ignore[misc]
    assert expected["error"] == pytest.approx(4.0 * SMALL.params**-0.2)
    assert expected["low"] == pytest.approx(expected["high"])
    assert SMALL.run_id not in {point["run_id"] for point in entry["fitted_to"]}  # type: ignore[attr-defined]


def test_a_size_to_come_is_no_place_of_its_own_law(make_study: MakeStudy) -> None:
    """Other runs of that size, such as shorter ones, would tell more of it than the law over sizes does."""
    entry = entry_of(make_study(seeds=(0, 1)), SMALL)
    assert SMALL.params not in {point["x"] for point in entry["fitted_to"]}  # type: ignore[attr-defined]
    assert entry["law"]["places"] == 4  # type: ignore[index]


def test_the_interval_is_that_of_one_further_point(make_study: MakeStudy) -> None:
    """Against the textbook's formula for a straight line in logarithms."""
    study = make_study(noise=0.1)
    entry = entry_of(study, SMALL)
    points = entry["fitted_to"]
    x, y = (np.log([point[name] for point in points]) for name in ("x", "error"))  # type: ignore[attr-defined]
    line = stats.linregress(x, y)
    spread = math.sqrt(((y - line.intercept - line.slope * x) ** 2).sum() / (len(x) - 2))
    place = math.log(SMALL.params)
    wide = math.sqrt(1 + 1 / len(x) + (place - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum())
    half = stats.t.ppf(0.975, len(x) - 2) * spread * wide
    (expected,) = entry["expected"]  # type: ignore[misc]
    middle = line.intercept + line.slope * place
    assert [expected[name] for name in ("low", "error", "high")] == pytest.approx(
        np.exp([middle - half, middle, middle + half])
    )


def test_too_few_sizes_are_told(make_study: MakeStudy) -> None:
    """Two points make no law: the entry says what is missing instead of guessing."""
    entry = entry_of(make_study(sizes={"nano": 25_000, "micro": 98_304, "small": SMALL.params}), SMALL)
    assert entry["law"] is None
    assert entry["expected"] == []
    assert "2 distinct" in str(entry["reason"])


def registered(study: Path, *, factor: float = 1.0) -> None:
    """Write down what is expected of the largest run, ``factor`` times too high."""
    entry = entry_of(study, SMALL)
    for expected in entry["expected"]:  # type: ignore[attr-defined]
        for name in ("error", "low", "high"):
            expected[name] *= factor
    write_predictions(study, {"written_at": "2026-01-01T10:20:30+00:00", "entries": [entry]})


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "Yes"), (9.0, "No")])
def test_the_report_says_whether_it_came_so(make_study: MakeStudy, factor: float, verdict: str) -> None:
    """The outcome lies in the registered interval or it does not."""
    study = make_study(noise=0.02)
    registered(study, factor=factor)
    (finding,) = check_predictions(read_study(study))
    assert finding.verdict == verdict
    assert "small" in finding.question
    assert "Registered 2026-01-01 10:20 UTC from 4 sizes" in finding.answer


def test_an_unfinished_run_leaves_the_question_open(make_study: MakeStudy) -> None:
    """Neither kept nor broken."""
    study = make_study(noise=0.02)
    registered(study)
    (study / "runs" / SMALL.run_id / "classify" / "result.json").unlink()
    write_json(study / "runs" / SMALL.run_id / "classify" / "status.json", {"state": "running"})
    (finding,) = check_predictions(read_study(study))
    assert finding.verdict == "Cannot say"
    assert finding.answer.endswith("It is not finished.")


def test_where_nothing_was_expected_the_reason_is_repeated(make_study: MakeStudy) -> None:
    """A registration that could not be made is part of the record."""
    study = make_study(sizes={"nano": 25_000, "small": SMALL.params})
    write_predictions(study, {"written_at": "2026-01-01T10:20:30+00:00", "entries": [entry_of(study, SMALL)]})
    (finding,) = check_predictions(read_study(study))
    assert (finding.verdict, finding.answer.startswith("Nothing was expected: ")) == ("Cannot say", True)


def test_without_a_registration_nothing_is_said(make_study: MakeStudy) -> None:
    """Most studies have none."""
    assert check_predictions(read_study(make_study())) == []


def test_what_is_written_is_only_added_to(make_study: MakeStudy) -> None:
    """A study that grows by a larger run keeps what it had registered, with its time; the new entries have theirs."""
    study = make_study(noise=0.02)
    registered(study)
    (first,) = check_predictions(read_study(study))
    larger = dataclasses.replace(SMALL, run_id="later", label="larger", params=4 * SMALL.params)
    write_predictions(study, {"written_at": "2026-02-03T04:05:06+00:00", "entries": [entry_of(study, larger)]})
    kept, added = check_predictions(read_study(study))
    assert kept == first
    assert (added.verdict, "larger" in added.question) == ("Cannot say", True)
    assert "Registered 2026-02-03 04:05 UTC from 5 sizes" in added.answer
    assert predicted_runs(study) == {SMALL.run_id, "later"}
    write_predictions(study, {"written_at": "2026-03-04T05:06:07+00:00", "entries": [entry_of(study, larger)]})
    assert check_predictions(read_study(study)) == [kept, added]  # of two launches the quicker one counts


def test_a_run_of_which_nothing_can_be_expected_is_on_record(make_study: MakeStudy) -> None:
    """Or each launch would ask anew, and the report repeat the answer."""
    study = make_study(sizes={"nano": 25_000, "small": SMALL.params})
    write_predictions(study, {"written_at": "2026-01-01T10:20:30+00:00", "entries": [entry_of(study, SMALL)]})
    assert predicted_runs(study) == {SMALL.run_id}


ENTRY = {"task": "classify", "axis": "params_backbone", "reason": None, "law": {"places": 3}, "expected": []}
EXPECTED = {"run_id": "r", "label": "small", "x": 1e6, "error": 0.2, "low": 0.1, "high": None}


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{}", {"schema": 9}, {"schema": 1}, {"written_at": 1, "entries": []}, {"entries": 3}),
        *({"entries": [entry]} for entry in (3, [], {}, ENTRY | {"task": "sleep"}, ENTRY | {"axis": "x"})),
        *({"entries": [ENTRY | {"law": law}]} for law in ({}, [], {"places": "many"})),
        *({"entries": [ENTRY | {"expected": expected}]} for expected in (3, [3], [{}])),
        *({"entries": [ENTRY | change]} for change in ({"run_ids": 3}, {"run_ids": [[]]}, {"written_at": 3})),
        *({"entries": [ENTRY | {"fitted_to": runs}]} for runs in (3, [3], [{}], [{"run_id": 3}])),
        *(
            {"entries": [ENTRY | {"expected": [EXPECTED | change]}]}
            for change in ({"x": "far"}, {"error": [1]}, {"low": float("inf")}, {"high": 10**400}, {"label": None})
        ),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: str | dict[str, object]) -> None:
    """One line, not a traceback, wherever the fault lies."""
    whole = {"schema": 1, "written_at": "2026-01-01T10:20:30+00:00"}
    (tmp_path / PREDICTIONS).write_text(content if isinstance(content, str) else json.dumps(whole | content))
    with pytest.raises(UserError, match=r"predictions\.json"):
        read_predictions(tmp_path)


SIZES = {"atto": 15_000, "femto": 38_000, "pico": 114_000, "nano": 301_000, "micro": 800_000}
HELD = "micro"
#: What multiplies the error, and the labelled images, at each value of a setting that a grid varies beside the size.
LABELS_VARY = ("classify.labels_per_class", {10: (1.0, 100), 50: (0.5, 500)})
RATE_VARIES = ("pretrain.base_lr", {0.1: (1.0, 100), 0.3: (1.5, 100)})
OBJECTIVE_VARIES = ("pretrain.objective", {"next_embedding": (1.0, 100), "masked_pixels": (1.6, 100)})
Varied = tuple[str, dict[Any, tuple[float, int]]]


def written(path: Path, varied: Varied, *, done: bool, seeds: Sequence[int] = (0,)) -> Path:
    """A study of sizes by a setting, errors of 3 N^-0.2 and a little noise; the largest size is ``done`` or to come."""
    (key, values), random, planned = varied, np.random.default_rng(3), []
    for size, params in SIZES.items():
        for value, (factor, images) in values.items():
            for seed in seeds:
                run_id, noise = f"{size}-{value}-{seed}", float(np.exp(random.normal(0, 0.02)))
                if done or size != HELD:
                    scores = {"top1": 1 - 3 * params**-0.2 * factor * noise, "top1_majority": 0.1}
                    outcome = result(run_id, "classify", "pretrain", size, params, seed, scores)
                    outcome["config"] |= {key: value}
                    write_task(path, run_id, "classify", outcome | {"unique_images": images})
                run = {"run_id": run_id, "label": f"{size} {value}", "init": "pretrain"}
                tasks = {"classify": {"params_backbone": params}}
                planned.append(run | {"values": {"model.size": size, key: value, "seed": seed}, "tasks": tasks})
    plan = {"schema": 1, "study": "t", "grid": "g", "axes": ["model.size", key, "seed"], "runs": planned}
    write_json(path / "plan.json", plan)
    return path


def held(varied: Varied, seeds: Sequence[int] = (0,), *, told: bool = True) -> list[Candidate]:
    """The runs of the largest size; older versions were not ``told`` how they differ."""
    key, values = varied
    more = [({"classify": images}, {key: value}) if told else ({}, {}) for value, (_, images) in values.items()]
    return [
        Candidate(f"{HELD}-{value}-{seed}", f"{HELD} {value}", SIZES[HELD], 10**12, *about)
        for value, about in zip(values, more, strict=True)
        for seed in seeds
    ]


def outcome_of(path: Path, varied: Varied, candidates: Sequence[Candidate], seeds: Sequence[int] = (0,)) -> Registered:
    """What came of a registration of the ``candidates`` once these are done."""
    entry = entry_of(written(path, varied, done=False, seeds=seeds), *candidates)
    write_predictions(path, {"written_at": "2026-01-01T10:20:30+00:00", "entries": [entry]})
    (found,) = all_registered(read_study(written(path, varied, done=True, seeds=seeds)))
    return found


@pytest.mark.parametrize("told", [True, False])
def test_a_prediction_is_of_the_number_of_labels_of_its_law(tmp_path: Path, told: bool) -> None:
    """The law is of 50 labels a class; the same sizes on 10 are no outcome of it, also where they were registered."""
    found = outcome_of(tmp_path, LABELS_VARY, held(LABELS_VARY, told=told))
    assert found.label == "micro 50"
    assert found.came == pytest.approx(0.5 * 3 * SIZES[HELD] ** -0.2, rel=0.1)
    entry = json.loads((tmp_path / PREDICTIONS).read_text())["entries"][0]
    assert {one["run_id"] for one in entry["expected"]} == {"micro-50-0"} | (set() if told else {"micro-10-0"})


def test_what_came_is_of_the_best_setting_with_all_its_seeds(tmp_path: Path) -> None:
    """As in the law, of which each size is represented by its best rate."""
    found = outcome_of(tmp_path, RATE_VARIES, held(RATE_VARIES, (0, 1)), (0, 1))
    assert (len(found.errors), found.label) == (2, "micro 0.1")
    assert found.came == pytest.approx(3 * SIZES[HELD] ** -0.2, rel=0.1)


def test_nothing_is_expected_of_another_objective(tmp_path: Path) -> None:
    """The law is of next-embedding prediction: masked pixels are not to be judged by it."""
    _, masked = held(OBJECTIVE_VARIES)
    study = written(tmp_path, OBJECTIVE_VARIES, done=False)
    entry = entry_of(study, masked)
    assert entry["law"] is None and entry["expected"] == [] and "another objective" in str(entry["reason"])
    assert entry["run_ids"] == [masked.run_id]
    both = entry_of(study, *held(OBJECTIVE_VARIES))
    assert [one["run_id"] for one in both["expected"]] == ["micro-next_embedding-0"]  # type: ignore[attr-defined]


def test_another_objective_that_was_registered_answers_nothing(tmp_path: Path) -> None:
    """As older versions did."""
    _, masked = held(OBJECTIVE_VARIES, told=False)
    found = outcome_of(tmp_path, OBJECTIVE_VARIES, [masked])
    assert (found.came, found.unlike) == (None, True)
    (finding,) = check_predictions(read_study(tmp_path))
    assert finding.verdict == "Cannot say" and "not finished" not in finding.answer


def test_a_study_of_one_objective_predicts_its_own(tmp_path: Path) -> None:
    """Also where that is not next-embedding prediction, and no run says so by what it varies."""
    masked: Varied = ("pretrain.objective", {"masked_pixels": (1.6, 100)})
    path = written(tmp_path, masked, done=False)
    plan = json.loads((path / "plan.json").read_text())
    write_json(path / "plan.json", plan | {"axes": ["model.size", "seed"]})
    (candidate,) = held(masked, told=False)
    assert entry_of(path, candidate)["law"] is not None
