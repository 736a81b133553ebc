"""The order of samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nepa_scale.data.order import accumulation_steps, batch_positions, micro_batches, sample_at, subset
from nepa_scale.errors import ConfigError, DataError

SIZES = st.integers(1, 200)


def global_batch(step: int, *, world_size: int, micro_batch_size: int = 2, **order: int) -> list[tuple[int, int]]:
    """What all ranks together read in one step."""
    parts = (
        micro_batches(step, rank=rank, world_size=world_size, micro_batch_size=micro_batch_size, **order)
        for rank in range(world_size)
    )
    return [place for part in parts for micro_batch in part for place in micro_batch]


@settings(deadline=None, max_examples=50)
@given(num_samples=SIZES, seed=st.integers(0, 2**31))
def test_an_epoch_reads_every_sample_once(num_samples: int, seed: int) -> None:
    """Positions of one epoch give each index exactly once, whatever the size."""
    for epoch in range(3):
        positions = range(epoch * num_samples, (epoch + 1) * num_samples)
        places = [sample_at(position, num_samples=num_samples, seed=seed) for position in positions]
        assert {found for found, _ in places} == {epoch}
        assert sorted(index for _, index in places) == list(range(num_samples))


@settings(deadline=None, max_examples=50)
@given(
    num_samples=SIZES,
    step=st.integers(0, 50),
    accumulation=st.integers(1, 4),
    micro_batch_size=st.integers(1, 5),
    world_size=st.integers(1, 5),
)
def test_ranks_and_micro_steps_share_the_batch_exactly(
    num_samples: int, step: int, accumulation: int, micro_batch_size: int, world_size: int
) -> None:
    """Over all ranks and micro-steps the global batch occurs once, with nothing lost and nothing doubled."""
    batch_size = accumulation * micro_batch_size * world_size
    together = global_batch(
        step,
        world_size=world_size,
        micro_batch_size=micro_batch_size,
        batch_size=batch_size,
        num_samples=num_samples,
        seed=3,
    )
    positions = range(step * batch_size, (step + 1) * batch_size)
    assert sorted(together) == sorted(sample_at(p, num_samples=num_samples, seed=3) for p in positions)


def test_the_shape_is_accumulation_by_micro_batch() -> None:
    """Every rank gets the same number of equally large micro-batches."""
    for rank in range(2):
        part = micro_batches(5, batch_size=24, micro_batch_size=4, rank=rank, world_size=2, num_samples=100, seed=0)
        assert [len(micro_batch) for micro_batch in part] == [4, 4, 4]


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_batch_is_the_same_for_every_world_size(world_size: int) -> None:
    """A run may go on with more or fewer processes: the set of images of each step does not change."""
    order = {"batch_size": 16, "num_samples": 37, "seed": 5}
    for step in range(8):
        assert set(global_batch(step, world_size=world_size, **order)) == set(global_batch(step, world_size=1, **order))


def test_steps_follow_each_other_without_gaps() -> None:
    """Positions of consecutive steps join; an epoch that does not divide runs over into the next."""
    assert [position for step in range(3) for position in batch_positions(step, 7)] == list(range(21))
    places = global_batch(1, world_size=1, batch_size=8, num_samples=10, seed=0)
    assert [epoch for epoch, _ in places] == [0, 0, 1, 1, 1, 1, 1, 1]


def test_seed_and_epoch_change_the_order() -> None:
    """Different seeds and different epochs are different permutations."""
    orders = {
        tuple(sample_at(epoch * 50 + offset, num_samples=50, seed=seed)[1] for offset in range(50))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


def test_early_positions_are_not_favoured() -> None:
    """First places are spread over the data: the order of the files on disk does not show through."""
    first = [sample_at(epoch * 1000, num_samples=1000, seed=0)[1] for epoch in range(400)]
    assert abs(np.mean(first) - 499.5) < 4 * 288.7 / 400**0.5


@pytest.mark.parametrize(("batch_size", "micro_batch_size", "world_size"), [(30, 4, 2), (8, 16, 1), (8, 8, 2)])
def test_an_indivisible_batch_is_refused(batch_size: int, micro_batch_size: int, world_size: int) -> None:
    """The line names the three numbers."""
    with pytest.raises(ConfigError, match=f"batch_size {batch_size} .* {micro_batch_size} x {world_size} ="):
        accumulation_steps(batch_size, micro_batch_size, world_size)


@settings(deadline=None, max_examples=50)
@given(total=SIZES, seed=st.integers(0, 2**31), data=st.data())
def test_subsets_are_nested(total: int, seed: int, data: st.DataObject) -> None:
    """A smaller subset is the beginning of a larger one, without repetitions."""
    large = data.draw(st.integers(1, total))
    small = data.draw(st.integers(1, large))
    np.testing.assert_array_equal(subset(total, small, seed), subset(total, large, seed)[:small])
    chosen = subset(total, large, seed)
    assert len(set(chosen.tolist())) == large
    assert 0 <= chosen.min() <= chosen.max() < total


def test_subsets_depend_on_the_seed_and_not_on_the_order() -> None:
    """Choosing images is independent of ordering them, and other seeds choose others."""
    assert set(subset(1000, 100, 0)) != set(subset(1000, 100, 1))
    epoch_start = [sample_at(position, num_samples=1000, seed=0)[1] for position in range(100)]
    assert len(set(epoch_start) & set(subset(1000, 100, 0).tolist())) < 30


@pytest.mark.parametrize("count", [0, 11])
def test_an_impossible_subset_is_refused(count: int) -> None:
    """Asking for more images than there are is an error, not a silent repetition."""
    with pytest.raises(DataError, match=f"cannot choose {count} images: the split has 10"):
        subset(10, count, 0)
