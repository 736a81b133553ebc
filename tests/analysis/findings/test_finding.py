"""Verdicts that hold together, and what would settle those that do not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeStudy
from scipy import stats

from analysis.findings.finding import Effect, Finding, correct_verdicts, power, thresholds, with_settling
from analysis.findings.headline import headline
from analysis.findings.scaling import law_question
from analysis.findings.series import CLASSIFICATION, PARAMETERS
from analysis.reporting.build import answer
from analysis.study.records import read_study

REPOSITORY = Path(__file__).resolve().parents[3]


def test_without_main_questions_it_is_holms() -> None:
    """Ordered p values are compared with .05 / m, .05 / (m - 1), ...; after the first failure with the same share."""
    assert thresholds([0.001, 0.02, 0.015, 0.9], [False] * 4) == pytest.approx([0.0125, 0.025, 0.05 / 3, 0.05])
    assert thresholds([0.04, 0.04], [False, False]) == pytest.approx([0.025, 0.025])
    assert thresholds([], []) == []


def test_main_questions_are_asked_one_after_the_other() -> None:
    """Each at .04 while those before were answered; the others share .01, and .05 once all were."""
    main = [True, False, True, False, True]
    assert thresholds([0.03, 0.9, 0.9, 0.9, 0.001], main) == pytest.approx([0.04, 0.01 / 3, 0.04, 0.01 / 3, 0.01 / 4])
    assert thresholds([0.03, 0.9, 0.03, 0.02, 0.03], main) == pytest.approx([0.04, 0.05, 0.04, 0.025, 0.04])
    assert thresholds([0.045], [True]) == pytest.approx([0.05])


def test_chance_passes_as_seldom_as_stated() -> None:
    """Over all patterns of three main and four other questions without an effect: at most 5 % with any that passes."""
    rng = np.random.default_rng(0)
    main = [True, True, True, False, False, False, False]
    for effects in ([], [0], [0, 1], [0, 1, 2], [1, 3]):
        wrong = 0
        for _ in range(4000):
            p = rng.uniform(size=7)
            p[effects] *= 1e-3
            levels = thresholds(p.tolist(), main)
            wrong += any(p[i] <= levels[i] for i in range(7) if i not in effects)
        assert wrong / 4000 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 4000)


def test_only_what_needs_less_falls() -> None:
    """A verdict without a test, and one that is none, stay; a weak Yes becomes Not shown and says why."""
    every = [
        Finding("a?", "Yes", "", "", 1e-5),
        Finding("b?", "Yes", "", "d", 0.04),
        Finding("c?", "Not shown", "", "", 0.4),
        Finding("d?", "No", ""),
    ]
    assert [one.verdict for one in correct_verdicts(every)] == ["Yes", "Not shown", "Not shown", "No"]
    assert "0.0400" in correct_verdicts(every)[1].detail and correct_verdicts(every)[1].detail.endswith("d")
    assert correct_verdicts(every[1:2])[0].verdict == "Yes"  # alone on its page


def test_the_headline_claims_no_more(make_study: MakeStudy) -> None:
    """What does not hold together is not claimed by the page's first sentence."""
    study = read_study(make_study())
    sure = headline(study)
    said = headline(study, [Finding(law_question(CLASSIFICATION, PARAMETERS), "Not shown", "")])
    assert sure is not None and said is not None
    assert "falls with model size" in sure.sentence and "falls with model size" not in said.sentence


@pytest.mark.parametrize(("t", "n", "spread"), [(1.5, 4, None), (2.0, 5, 0.6)])
def test_enough_is_the_least_that_does(t: float, n: int, spread: float | None) -> None:
    """80 % power at the number told and less with one fewer; simulated power is that of the formula."""
    effect = Effect(t, n, 2, "size", spread)
    found = effect.enough(0.05)
    assert found is not None
    assert power(effect.of(found), found - 2, 0.05) >= 0.8 > power(effect.of(found - 1), found - 3, 0.05)
    rng = np.random.default_rng(0)
    z, chi = rng.normal(effect.of(found), 1, 20_000), rng.chisquare(found - 2, 20_000)
    shown = z / np.sqrt(chi / (found - 2)) > stats.t.isf(0.025, found - 2)
    assert np.mean(shown) == pytest.approx(0.8, abs=0.08)


def test_an_effect_of_nothing_is_settled_by_nothing() -> None:
    """No number of sizes or seeds shows what is not there."""
    assert Effect(0.01, 4, 2, "size").enough(0.05) is None and Effect(0.01, 4, 2, "size").enough_seeds(0.05) is None


def test_what_would_settle_it_has_its_cost(make_study: MakeStudy) -> None:
    """Sizes, seeds, FLOPs and hours: each planned task costs 1e12 FLOPs, a size five of them."""
    path = make_study(noise=0.8, a=0.3, b=0.05)
    (law,) = [one for one in answer(path).findings if one.question == law_question(CLASSIFICATION, PARAMETERS)]
    assert law.verdict == "Not shown" and law.effect is not None and law.level is not None
    study = read_study(path)
    more = law.effect.enough(law.level)
    (again,) = with_settling(
        study, [Finding("q", "Not shown", "", p=0.2, effect=Effect(2.0, 5, 2, "size"), level=0.05)]
    )
    needed = Effect(2.0, 5, 2, "size").enough(0.05)
    assert needed is not None and f"{needed} sizes instead of 5" in again.detail
    assert f"{5e12 * (needed - 5):.1e}"[:3].rstrip("0").rstrip(".") in again.detail and "hours" in again.detail
    assert more is None or f"{more} sizes instead of" in law.detail


def test_a_size_costs_all_its_seeds(make_study: MakeStudy) -> None:
    """Another size of a study of two seeds is two more runs of each kind: twice what it costs with one seed."""
    finding = Finding("q", "Not shown", "", p=0.2, effect=Effect(2.0, 5, 2, "size"), level=0.05)
    hours = []
    for seeds in ((0,), (0, 1)):
        study = read_study(make_study(name=f"seeds{len(seeds)}", seeds=seeds))
        (found,) = with_settling(study, [finding])
        hours.append(float(re.findall(r"([\d.]+) hours", found.detail)[0]))
    assert hours[1] == pytest.approx(2 * hours[0], rel=0.02)


@pytest.mark.slow
def test_null_reports_claim_nothing() -> None:
    """Of 40 studies without any effect at most 5 claim one (5 % are 2), and many would, each test alone."""
    words = ["studies=40", "effects=null", "--json"]
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "benchmarks" / "null_reports.py"), *words],
        capture_output=True, text=True, check=True, cwd=REPOSITORY,
    )  # fmt: skip
    found = {row["way"]: row["any"] for row in json.loads(done.stdout)}
    assert found["main"] <= 12.5 and found["alone"] >= 20
