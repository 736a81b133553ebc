"""What is expected of runs to come, written down once, and beside the outcome."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeStudy
from scipy import stats
from study_files import write_json

from analysis.findings.preregistration import Candidate, check_predictions, expectations
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
