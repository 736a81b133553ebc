"""Configurations that are made from one another equal those built alone."""

from __future__ import annotations

import itertools

import pytest

from nepa_scale.config import overrides
from nepa_scale.utils.errors import ConfigError
from sweeps.plan.grids import Configurations

TASKS = ("pretrain", "classify")


def test_seeds_share_their_checks_and_nothing_else() -> None:
    """Every combination of size, rate and seed has the identity it has when built alone."""
    configurations = Configurations(TASKS)
    for size, rate, seed in itertools.product(("femto", "pico"), ("1e-3", "2e-3"), ("0", "1", "7")):
        pairs = [("model.size", size), ("seed", seed), ("pretrain.base_lr", rate)]
        assert configurations.build(pairs) == overrides.build(pairs, tasks=TASKS)
    assert configurations.build([("model.size", "femto")]) == overrides.build([("model.size", "femto")], tasks=TASKS)


def test_a_bad_seed_is_found_wherever_it_stands() -> None:
    """Also on a point whose other settings have passed, and a bad setting on a seed that has."""
    configurations = Configurations(TASKS)
    configurations.build([("model.size", "femto"), ("seed", "0")])
    for pairs in ([("model.size", "femto"), ("seed", "x")], [("model.size", "fempto"), ("seed", "0")]):
        with pytest.raises(ConfigError):
            configurations.build(pairs)
