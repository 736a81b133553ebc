"""engine.precision=bf16-autocast, against a loop in plain PyTorch under ``torch.autocast``, and against fp32."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import autocast_ranks
import pytest
from ranks import run_on_ranks

STAGES = ("0", "1", "2", "3")


def trained(steps: int, precision: str, world_size: int) -> dict[str, dict[str, Any]]:
    """What rank 0 reports of training at every stage, by stage."""
    words = [str(steps), precision, ",".join(STAGES)]
    printed, *_ = run_on_ranks("autocast_ranks.py", words, world_size=world_size)
    return dict(json.loads(printed.strip().splitlines()[-1]))


@cache
def plain(steps: int, world_size: int, *, autocast: bool) -> dict[str, Any]:
    """The plain loop; all stages are held to the same one."""
    return autocast_ranks.plain(steps, world_size, autocast=autocast)


def largest(one: list[float], other: list[float]) -> float:
    """The largest difference, step by step."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("steps", "world_size"),
    [pytest.param(20, 1, marks=pytest.mark.slow(seconds=4)), pytest.param(100, 2, marks=pytest.mark.slow)],
)
def test_every_stage_follows_plain_autocast(steps: int, world_size: int) -> None:
    """Losses are those of plain autocast to 1e-3 and of fp32 to 1e-2 at every step, at stages 0 to 3; they are no
    fp32 run's: products are rounded."""
    reference, exact = (plain(steps, world_size, autocast=autocast) for autocast in (True, False))
    assert exact["losses"][-1] < exact["losses"][0] - 0.01 * (steps > 20)
    for stage, seen in trained(steps, "bf16-autocast", world_size).items():
        assert largest(seen["losses"], reference["losses"]) < 1e-3, stage
        assert 1e-6 < largest(seen["losses"], exact["losses"]) < 1e-2, stage
