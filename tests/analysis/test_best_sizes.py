"""The best size at a budget, against the closed form of the law that made the runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from surface_studies import ALPHA, BETA, FLOPS_PER, A, B, write

from analysis.findings.two_axes import best_sizes
from analysis.study.records import read_study

SIZES = [round(size) for size in np.geomspace(1e4, 1e8, 6)]
BUDGETS = [1e12, 1e15]


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
