"""Whether one learning rate serves all sizes, told from studies whose best rates are known."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from named_settings import HEALTHY, Setting, write_settings

from analysis.best_rate import one_rate
from analysis.findings import Finding
from analysis.records import Study, read_study

RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
PARAMS = {"femto": 1e4, "nano": 4e4}


def study_of(path: Path, best: Mapping[str, float], *, failed: tuple[str, float] | None = None) -> Study:
    """A grid of sizes by rates: skill is 0.3 at a size's best rate and 0.05 less for each factor of 2 from it."""
    settings = {
        f"{size} {rate:g}": Setting(
            pretrain=HEALTHY | {"skill": 0.3 - 0.05 * abs(math.log2(rate / best[size]))},
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
    assert (
        found.answer == "Highest skill of pretraining at base_lr: femto 0.004 (skill 0.300); nano 0.004 (skill 0.300)."
    )
    assert found.detail == ""


def test_other_best_rates_give_the_exponent(tmp_path: Path) -> None:
    """Half the rate at four times the parameters is N ^ -0.5; femto's rate costs nano one factor of 2, 0.05."""
    found = answer(study_of(tmp_path, {"femto": 4e-3, "nano": 2e-3}))
    assert found.verdict == "No"
    assert "The best rate of femto costs in skill: nano 0.050." in found.detail
    assert "pretrain.lr_exponent=-0.50" in found.detail


def test_a_best_rate_at_the_edge_decides_nothing(tmp_path: Path) -> None:
    """The true best may lie beyond."""
    found = answer(study_of(tmp_path, {"femto": 1e-3, "nano": 1e-3}))
    assert found.verdict == "Cannot say"
    assert "femto, nano lies at an edge" in found.detail


def test_a_failed_rate_is_no_data_point(tmp_path: Path) -> None:
    """A run that missed its milestone cannot be the best, and what is left must still decide."""
    found = answer(study_of(tmp_path, {"femto": 4e-3, "nano": 4e-3}, failed=("nano", 4e-3)))
    assert "nano 0.004" not in found.answer
    assert "1 unfinished or failed run left out." in found.detail


@pytest.mark.parametrize("sizes", [("femto",), ()])
def test_other_grids_are_not_asked(tmp_path: Path, sizes: tuple[str, ...]) -> None:
    """One size, or no rates: there is nothing to compare."""
    if sizes:
        study = study_of(tmp_path, dict.fromkeys(sizes, 4e-3))
    else:
        write_settings(tmp_path, "ablation", {"a": Setting(), "b": Setting()})
        study = read_study(tmp_path)
    assert one_rate(study) == []
