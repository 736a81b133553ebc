"""Sets of steps, against the same sets listed."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nepa_scale.config.early_stop import StepSet, every

PERIODS = st.frozensets(st.integers(1, 12), max_size=3)
OTHERS = st.frozensets(st.integers(-2, 40), max_size=5)


@given(st.integers(0, 36), PERIODS, OTHERS, st.integers(0, 40))
def test_counts_and_members_are_those_of_the_listed_set(
    last: int, periods: frozenset[int], others: frozenset[int], after: int
) -> None:
    """Overlapping periods and single steps are each counted once, and nothing outside 1 to last."""
    steps = StepSet(last, periods, others)
    listed = {step for step in range(1, last + 1) if step in others or any(step % period == 0 for period in periods)}
    assert {step for step in range(-3, 45) if step in steps} == listed
    assert steps.count() == len(listed)
    assert steps.count(after) == sum(step > after for step in listed)


def test_union_and_none() -> None:
    """Two sets unite, and a period of 0 means never."""
    both = every(4, 20) | StepSet(20, others=frozenset({3, 8}))
    assert [step for step in range(25) if step in both] == [3, 4, 8, 12, 16, 20]
    assert every(0, 20).count() == 0
    with pytest.raises(ValueError, match="20 and up to 21"):
        every(4, 20) | every(4, 21)


def test_a_set_of_many_steps_is_counted_at_once() -> None:
    """The time does not grow with the steps."""
    before = time.perf_counter()
    assert (every(1, 10**15) | every(7, 10**15)).count() == 10**15
    assert time.perf_counter() - before < 0.1
