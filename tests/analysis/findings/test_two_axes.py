"""A study over parameters and data: the surface put in comes back as sentences with its warnings, and the best size
at a budget is that of its closed form."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from study_files import result, write_json, write_task
from surface_studies import ALPHA, BETA, FLOPS_PER, A, B, E, write

from analysis.findings.series import CLASSIFICATION
from analysis.findings.two_axes import best_sizes, divided_compute, surface_points
from analysis.study.records import read_study

SIZES = [round(size) for size in np.geomspace(1e4, 1e8, 6)]
BUDGETS = [1e12, 1e15]


def test_the_surface_comes_back(tmp_path: Path) -> None:
    """Six sizes on six amounts of data: floor, exponents and the best division, each with an interval."""
    sizes = [round(size) for size in np.geomspace(1e4, 1e8, 6)]
    study = read_study(write(tmp_path, sizes, lambda size: list(np.geomspace(1e6, 1e10, 6))))
    assert len(surface_points(study, CLASSIFICATION)) == 36
    finding, skill = divided_compute(study)
    assert finding.question == "How do parameters and data together set the classification error?"
    assert finding.verdict == "Yes"
    assert skill.verdict == "Cannot say" and "all values are equal" in skill.answer
    for start, truth in {"alpha = ": ALPHA, "beta = ": BETA, "N ∝ C^": BETA / (ALPHA + BETA)}.items():
        stated = float(finding.answer.partition(start)[2].split()[0])
        assert stated == pytest.approx(truth, abs=0.03)
    ratio = ALPHA * A / (BETA * B)  # Hoffmann et al. 2022, equation 4
    best = ratio ** (1 / (ALPHA + BETA)) * (1e8 * 1e10) ** (BETA / (ALPHA + BETA))
    stated_best = re.search(r"has (\S+)\s(\S) parameters", finding.answer)
    assert stated_best and float(stated_best[1]) * {"M": 1e6, "G": 1e9}[stated_best[2]] == pytest.approx(best, rel=0.3)
    assert "n = 36 runs of 6 sizes" in finding.answer
    floor = re.search(r" E = \S+ \((\S+) to (\S+)\), ", finding.answer)
    assert floor and float(floor[1]) < E < float(floor[2])
    without = re.search(r"Leaving out any one size keeps alpha within (\S+) to (\S+) and beta within", finding.detail)
    stated = float(finding.answer.partition("alpha = ")[2].split()[0])
    assert without and float(without[1]) <= stated <= float(without[2])


def test_three_sizes_on_four_amounts_say_that_none_can_be_missed(tmp_path: Path) -> None:
    """Two sizes do not determine floor, coefficient and exponent, so no range over sizes is given."""
    study = read_study(write(tmp_path, [10_000, 300_000, 9_000_000], lambda size: list(np.geomspace(1e6, 1e10, 6))))
    detail = divided_compute(study)[0].detail
    assert "3 of the clusters cannot be left out" in detail and "keeps alpha" not in detail


def test_equal_budgets_give_parabolas_with_their_bias(tmp_path: Path) -> None:
    """Runs of equal compute also get the exponent of parabolas, and how far these are off without noise."""
    budgets = np.geomspace(1e12, 1e16, 5)
    sizes = [round(size) for size in np.geomspace(1e3, 3e8, 18)]

    def data(size: int) -> list[float]:
        best = 0.5 * budgets**0.5
        return [budget / (FLOPS_PER * size) for budget, n in zip(budgets, best, strict=True) if n / 40 < size < n * 40]

    finding = divided_compute(read_study(write(tmp_path, sizes, data, noise=0.001)))[0]
    said = finding.detail.replace("\u00a0", " ").partition("Parabolas at equal compute give ")[2]
    found = re.match(r"([\d.]+) \(95 % interval ([\d.]+) to ([\d.]+), n = 5 budgets; off by ", said)
    assert found is not None
    exponent, low, high = map(float, found.groups())
    assert low < exponent < high and low < BETA / (ALPHA + BETA) < high


def test_one_axis_is_no_surface(tmp_path: Path) -> None:
    """Sizes on one amount of data, or one size on several: nothing is said."""
    sizes = [10_000, 100_000, 1_000_000, 10_000_000]
    assert divided_compute(read_study(write(tmp_path / "sizes", sizes, lambda size: [1e8]))) == []
    assert divided_compute(read_study(write(tmp_path / "data", [10_000], lambda size: [1e6, 1e7, 1e8, 1e9]))) == []


def test_too_few_runs_are_refused(tmp_path: Path) -> None:
    """Three runs on a diagonal vary both, and cannot carry five parameters."""
    path = write(tmp_path, [10_000, 100_000, 1_000_000], lambda size: [100.0 * size])
    finding = divided_compute(read_study(path))[0]
    assert finding.verdict == "Cannot say"
    assert "needs 6" in finding.answer


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_surface_whose_intervals_cannot_be_computed_is_no_answer(tmp_path: Path) -> None:
    """Errors that rise again with size fit no surface of this form: the reason is said, and no number."""
    sizes = [round(1e4 * factor) for factor in (0.1, 0.4, 1.5, 6.0, 9.0)]
    planned = []
    for scale in (1, 10, 100, 1000):
        for size in sizes:
            params = round(size * scale**0.5)
            run_id, tokens = f"n{params}-c{scale}", 1e12 * scale / (6 * params)
            pretrain = result(run_id, "pretrain", "pretrain", "s", params, 0, {"skill": 0.5})
            write_task(
                tmp_path, run_id, "pretrain", pretrain | {"tokens_seen": round(tokens), "flops_train": 1e12 * scale}
            )
            if (scale, size) in ((1, 60_000), (100, 1_000), (100, 4_000), (1000, 1_000), (1000, 15_000)):
                continue
            top1 = {"top1": 0.8 - 0.01 * math.log(size / 1e4) ** 2, "top1_majority": 0.1}
            write_task(tmp_path, run_id, "classify", result(run_id, "classify", "pretrain", "s", params, 0, top1))
            planned.append({"run_id": run_id, "label": run_id, "init": "pretrain", "values": {}, "tasks": {}})
    axes = ["model.size", "pretrain.num_images"]
    write_json(tmp_path / "plan.json", {"schema": 1, "study": "s", "grid": "g", "axes": axes, "runs": planned})
    finding = divided_compute(read_study(tmp_path))[0]
    assert finding.verdict in ("Cannot say", "Not shown")


def test_best_sizes_are_those_of_the_law(tmp_path: Path) -> None:
    """N* = (alpha A / (beta B))^(1 / (alpha + beta)) (C / 6.3)^(beta / (alpha + beta)); Hoffmann et al. 2022, eq. 4."""
    study = read_study(write(tmp_path, SIZES, lambda size: list(np.geomspace(1e6, 1e10, 6)), noise=0))
    found, missing = best_sizes(study, BUDGETS)
    lead = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    truth = [lead * (budget / FLOPS_PER) ** (BETA / (ALPHA + BETA)) for budget in BUDGETS]
    assert found == {"classification error": pytest.approx(truth, rel=1e-3)}
    assert "all values are equal" in missing["shortfall of pretraining skill"]


def test_one_amount_of_data_gives_no_best_size(tmp_path: Path) -> None:
    """Sizes on equal data say nothing of how compute is divided, and no number is made up."""
    found, missing = best_sizes(read_study(write(tmp_path, SIZES, lambda size: [1e8])), BUDGETS)
    assert found == {}
    assert "one value only" in missing["classification error"]
