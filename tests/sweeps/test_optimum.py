"""Budgets whose optimum another study puts outside the sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from plain_study import read_launch
from surface_studies import ALPHA, BETA, FLOPS_PER, A, B, write

from nepa_scale.utils.errors import ConfigError
from sweeps.plan.run_specs import expand, unmet

SIZES = [round(size) for size in np.geomspace(1e4, 1e8, 6)]


def budget_of(best: float) -> float:
    """FLOPs of which ``best`` is the optimal size by the law of the studies written here, N* solved for C."""
    lead = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    return float(FLOPS_PER * (best / lead) ** ((ALPHA + BETA) / BETA))


def test_a_budget_whose_optimum_lies_outside_the_ladder_is_dropped(tmp_path: Path) -> None:
    """The ladder goes from femto to nano, 38k to 301k: one budget's best size lies within, the other's beyond."""
    write(tmp_path / "earlier", SIZES, lambda size: list(np.geomspace(1e6, 1e10, 6)), noise=0)
    budgets = f"study.budgets=[{budget_of(1e5):.6e},{budget_of(1e7):.6e}]"
    words = ("grid=isoflop", "study.sizes=[femto,pico,nano]", budgets, "study.scratch_control=false")
    launch = read_launch((*words, f"optimum_from={tmp_path / 'earlier'}", "unfit=drop"))
    within, beyond = (f"{budget_of(best):g} FLOPs" for best in (1e5, 1e7))
    assert [point.label for point in expand(launch).values()] == [
        f"{size} {within}" for size in ("femto", "pico", "nano")
    ]
    assert list(unmet(launch)) == [f"{size} {beyond}" for size in ("femto", "pico", "nano")]
    assert len(set(unmet(launch).values())) == 1
    assert f"the optimum of {beyond} lies outside the ladder: 10M parameters" in unmet(launch)[f"pico {beyond}"]
    with pytest.raises(ConfigError) as refused:
        expand(read_launch((*words, f"optimum_from={tmp_path / 'earlier'}")))
    assert str(refused.value).count("lies outside the ladder") == 1


def test_a_source_that_cannot_tell_is_refused(tmp_path: Path) -> None:
    """One amount of data gives no division of compute; another grid has no budgets to judge."""
    write(tmp_path, SIZES, lambda size: [1e8])
    with pytest.raises(ConfigError, match=r"no best size can be told.*one value only"):
        expand(read_launch(("grid=isoflop", f"optimum_from={tmp_path}")))
    with pytest.raises(ConfigError, match="give grid=isoflop, too"):
        read_launch(("grid=model_size", f"optimum_from={tmp_path}"))
