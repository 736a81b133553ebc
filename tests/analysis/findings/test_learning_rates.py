"""Whether one learning rate serves all sizes, told from studies whose best rates are known."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from named_settings import HEALTHY, Setting, write_settings

from analysis.findings.finding import Finding
from analysis.findings.learning_rates import one_rate, verdict
from analysis.optimum import Common, Sweep, sweep
from analysis.study.records import Study, read_study

RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
PARAMS = {"femto": 1e4, "nano": 4e4}


def study_of(
    path: Path, best: Mapping[str, float], *, loss: float = 0.05, failed: tuple[str, float] | None = None
) -> Study:
    """A grid of sizes by rates: skill is 0.3 at a size's best rate and ``loss`` less for each factor of 2 from it."""
    settings = {
        f"{size} {rate:g}": Setting(
            pretrain=HEALTHY | {"skill": 0.3 - loss * abs(math.log2(rate / best[size]))},
            values={"model.size": size, "pretrain.base_lr": rate},
        )
        for size in best
        for rate in RATES
    }
    write_settings(path, "lr", settings)
    if failed is not None:
        place = list(settings).index(f"{failed[0]} {failed[1]:g}")
        (path / "runs" / f"r{place}-s0" / "pretrain" / "result.json").unlink()
        status = path / "runs" / f"r{place}-s0" / "pretrain" / "status.json"
        status.write_text(status.read_text().replace("finished", "failed"))
    study = read_study(path)
    params = study.table["config.model.size"].map(PARAMS)
    return dataclasses.replace(study, table=study.table.assign(params_backbone=params))


def answer(study: Study) -> Finding:
    """The one finding."""
    (finding,) = one_rate(study)
    return finding


def test_the_same_best_rate_holds(tmp_path: Path) -> None:
    """Equal best rates inside of the range: yes, with both."""
    found = answer(study_of(tmp_path, {"femto": 4e-3, "nano": 4e-3}))
    assert found.verdict == "Yes"
    assert found.p is not None and found.p < 0.01
    assert "femto 0.00400" in found.answer and "nano 0.00400" in found.answer


def test_other_best_rates_give_the_exponent(tmp_path: Path) -> None:
    """Half the rate at four times the parameters is N ^ -0.5."""
    found = answer(study_of(tmp_path, {"femto": 4e-3, "nano": 2e-3}))
    assert found.verdict == "No" and found.p is not None and found.p < 0.01
    assert "pretrain.lr_exponent=-0.50" in found.detail


def test_a_best_rate_at_the_edge_decides_nothing(tmp_path: Path) -> None:
    """The true best may lie beyond."""
    found = answer(study_of(tmp_path, {"femto": 1e-3, "nano": 1e-3}))
    assert found.verdict == "Cannot say"
    assert "femto, nano lies at an edge" in found.detail
    both = answer(study_of(tmp_path / "both", {"femto": 4e-3, "nano": 4e-3}, loss=-0.05))  # either end is as good
    assert both.verdict == "Cannot say"
    assert "femto, nano lies at an edge" in both.detail


def test_a_failed_rate_is_no_data_point(tmp_path: Path) -> None:
    """A run that missed its milestone is left out and counted; what is left decides."""
    found = answer(study_of(tmp_path, {"femto": 4e-3, "nano": 4e-3}, failed=("nano", 4e-3)))
    assert found.verdict == "Yes" and "1 unfinished or failed run left out." in found.detail
    assert "nano 0.00400" in found.answer and "(skill up to 0.250)" in found.answer


def test_a_null_names_a_curve_as_any_other_value(tmp_path: Path) -> None:
    """Of a setting that is null at some points both curves are compared, each with its name."""
    settings = {
        f"{exponent} {rate:g}": Setting(
            pretrain=HEALTHY | {"skill": 0.3 - 0.05 * abs(math.log2(rate / RATES[2]))},
            values={"pretrain.lr_exponent": exponent, "pretrain.base_lr": rate},
        )
        for exponent in (None, 0.5)
        for rate in RATES
    }
    found = answer(read_study(write_settings(tmp_path, "lr", settings)))
    assert found.verdict == "Yes"
    assert "lr_exponent=null 0.00400" in found.answer and "lr_exponent=0.5 0.00400" in found.answer


@pytest.mark.parametrize(("shift", "said", "least"), [(0.0, "No", 0), (1.0, "No", 32)])
def test_the_verdict_errs_as_stated(shift: float, said: str, least: int) -> None:
    """Of the test on its own; the page also says "Cannot say" where a best rate lies at an edge.

    One true rate midway between two tried, noise .003: at most 5 % No (88 % by the best runs); of a shift of one
    step between femto and nano, at least 80 %."""
    rng, place = np.random.default_rng(0), math.log2(RATES[2]) + 0.5
    best = {"femto": 2 ** (place - shift / 2), "nano": 2 ** (place + shift / 2)}
    rates, names = np.tile(RATES, len(best)), np.repeat(list(best), len(RATES))
    truth = np.array([0.3 - 0.01 * math.log2(rate / best[size]) ** 2 for rate, size in zip(rates, names, strict=True)])
    verdicts = []
    for _ in range(40):
        fit = sweep(rates, -(truth + rng.normal(0, 0.003, len(truth))), names)
        assert isinstance(fit, Sweep)
        common = fit.common()
        assert isinstance(common, Common)
        verdicts.append(verdict(common)[0])
    assert verdicts.count(said) >= least
    assert shift or verdicts.count(said) <= 4  # 5 % of 40 is 2


@pytest.mark.parametrize("sizes", [("femto",), ()])
def test_other_grids_are_not_asked(tmp_path: Path, sizes: tuple[str, ...]) -> None:
    """One size, or no rates: there is nothing to compare."""
    if sizes:
        study = study_of(tmp_path, dict.fromkeys(sizes, 4e-3))
    else:
        write_settings(tmp_path, "ablation", {"a": Setting(), "b": Setting()})
        study = read_study(tmp_path)
    assert one_rate(study) == []
