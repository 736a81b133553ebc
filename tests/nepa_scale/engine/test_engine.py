"""One optimiser step at every ZeRO stage: against the plain loop, and with something that is not finite in it."""

from __future__ import annotations

import json
import math
from typing import Any

import engine_ranks
import pytest
import torch
from ranks import run_on_ranks

CLIP, BAD = 0.3, 2


def figures(*words: Any, world_size: int) -> list[dict[str, Any]]:
    """What each rank reported."""
    outputs = run_on_ranks("engine_ranks.py", [*map(str, words)], world_size=world_size)
    return [json.loads(output.strip().splitlines()[-1]) for output in outputs]


@pytest.mark.parametrize("world_size", [1, 2])
def test_every_stage_takes_the_plain_loops_steps(world_size: int) -> None:
    """Losses, gradient norms before clipping and weights are those of AdamW written out, at stages 0 to 3: the
    shortcuts around DeepSpeed's own work lose nothing, and the rates are those of the step."""
    losses, norms, weights = engine_ranks.plain(list(range(engine_ranks.STEPS)), world_size, CLIP)
    assert min(norms) > CLIP  # or clipping would not be seen
    flat = [weight.flatten().tolist() for weight in weights]
    first, *_ = figures("agree", CLIP, world_size=world_size)
    for stage, seen in first.items():
        assert seen["losses"] == pytest.approx(losses, rel=1e-6), stage
        assert seen["norms"] == pytest.approx(norms, rel=1e-6), stage
        for own, expected in zip(seen["weights"], flat, strict=True):
            assert own == pytest.approx(expected, rel=1e-5, abs=1e-7), stage


@pytest.mark.parametrize("world_size", [1, 2])
def test_bad_step_is_skipped_by_all(world_size: int) -> None:
    """N1, N2: an infinite loss on the last rank: no rank takes the step, at any stage and in bf16, and the others go
    on as if it had not been there: weights are those of the plain loop without it, and the average is finite."""
    kept = [step for step in range(engine_ranks.STEPS) if step != BAD]
    _, _, weights = engine_ranks.plain(kept, world_size, CLIP)
    flat = [weight.flatten().tolist() for weight in weights]
    for rank, seen_by in enumerate(figures("skip", CLIP, BAD, world_size=world_size)):
        for name, seen in seen_by.items():
            assert seen["taken"] == [float(step != BAD) for step in range(engine_ranks.STEPS)], (rank, name)
            assert seen["norms"][BAD] == math.inf
            assert not math.isfinite(seen["losses"][BAD])
            if rank:
                continue
            tolerance = 1e-5 if len(name) == 1 else 0.02
            for own, expected in zip(seen["weights"], flat, strict=True):
                assert own == pytest.approx(expected, rel=tolerance, abs=tolerance), name
            assert all(torch.tensor(each).isfinite().all() for each in seen["average"]), name
