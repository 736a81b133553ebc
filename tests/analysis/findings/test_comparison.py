"""Pairs of runs and their controls are as many as are independent of one another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study_files import result, write_json, write_task

from analysis.findings.comparison import Comparison, beats_majority, comparison, gain, gain_over_scratch
from analysis.findings.series import CLASSIFICATION
from analysis.fit.student import MeanRatio
from analysis.study.records import read_study

SIZES = {"femto": 38_000, "pico": 114_000, "nano": 301_000}


def compared(
    path: Path, key: str, values: Sequence[Any], controls: Sequence[Any], start: str = "pretrain"
) -> Comparison:
    """Sizes by ``values`` of a setting of fine-tuning, from one pre-training each, and controls at some of them."""
    planned = []
    for size, params in SIZES.items():
        for init, at in ((start, values), ("scratch", controls)):
            for i, value in enumerate(at):
                run_id = f"{size}-{init.replace('/', '-')}-{value}"
                top1 = 0.4 + np.log10(params) / 50 + (0.1 + i / 50) * (init == start)
                outcome = result(run_id, "classify", init, size, params, 0, {"top1": top1, "top1_majority": 0.1})
                outcome["config"] |= {key: value}
                write_task(path, run_id, "classify", outcome)
                run: dict[str, Any] = {"run_id": run_id, "label": f"{size} {value}", "init": init}
                run |= {"values": {"model.size": size, key: value}, "tasks": {"classify": {}}}
                planned.append(run | ({"pretrained_by": f"{size}-own"} if init == "pretrain" else {}))
    axes = ["model.size", key]
    write_json(path / "plan.json", {"schema": 1, "study": "t", "grid": "g", "axes": axes, "runs": planned})
    return comparison(read_study(path), CLASSIFICATION)


FRACTIONS = [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("controls", [FRACTIONS, [0.75]])
def test_what_controls_do_not_read_splits_none(tmp_path: Path, controls: list[float]) -> None:
    """As many controls as there are settings of the pretrained start, or one: each size is one pair all the same."""
    found = compared(tmp_path, "classify.init_fraction", FRACTIONS, controls)
    assert len(found.rows) == len(SIZES) * len(FRACTIONS)
    assert found.rows[["pretrained", "scratch"]].notna().all(axis=None)
    ratio = gain(found)
    assert isinstance(ratio, MeanRatio) and ratio.n == len(SIZES)
    assert "n = 3 controls" in gain_over_scratch(found).answer


@pytest.mark.parametrize("start", ["pretrain", "weights/a"])
def test_fine_tunings_of_one_pretraining_are_one_pair(tmp_path: Path, start: str) -> None:
    """Each rate has a control of its own, and all rates of a size the same weights: the ratio is that of the means."""
    found = compared(tmp_path, "classify.base_lr", [0.01, 0.03], [0.01, 0.03], start)
    assert found.controls.nunique() == 6
    own = start if start == "pretrain" else "other weights"
    ratio = gain(found, own)
    assert isinstance(ratio, MeanRatio) and ratio.n == len(SIZES)
    means = found.rows.groupby(found.rows.index.str.partition(" ").get_level_values(0)).mean()
    column = "pretrained" if start == "pretrain" else own
    assert ratio.mean == pytest.approx(np.exp(np.log((1 - means[column]) / (1 - means["scratch"])).mean()))
    assert beats_majority(found, own).detail.startswith("Mean over 3 groups")


def test_pairs_with_weights_of_their_own_stay_as_many(tmp_path: Path) -> None:
    """One rate of each size: nothing is averaged."""
    found = compared(tmp_path, "classify.base_lr", [0.01], [0.01])
    ratio = gain(found)
    assert isinstance(ratio, MeanRatio) and ratio.n == len(SIZES)
    assert "averaged" not in gain_over_scratch(found).detail
