"""The order of samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nepa_scale.data.sampler import (
    WINDOW_SHARDS,
    EpochIndex,
    SampleOrder,
    accumulation_steps,
    batch_positions,
    micro_batches,
    subset,
)
from nepa_scale.utils.errors import ConfigError, DataError

SIZES = st.integers(1, 200)
SHARDS = st.lists(st.integers(0, 30), min_size=1, max_size=80).filter(any)
SEEDS = st.integers(0, 2**31)


def global_batch(
    order: SampleOrder, step: int, *, batch_size: int, world_size: int, micro: int = 2
) -> list[EpochIndex]:
    """What all ranks together read in one step."""
    parts = (
        micro_batches(order, step, rank=rank, world_size=world_size, micro_batch_size=micro, batch_size=batch_size)
        for rank in range(world_size)
    )
    return [place for part in parts for micro_batch in part for place in micro_batch]


@settings(deadline=None, max_examples=100)
@given(lengths=SHARDS, seed=SEEDS)
def test_an_epoch_reads_every_sample_once(lengths: list[int], seed: int) -> None:
    """Positions of one epoch give each index exactly once, whatever the shards are like."""
    order, total = SampleOrder(lengths, seed), sum(lengths)
    for epoch in range(3):
        places = [order.epoch_index(position) for position in range(epoch * total, (epoch + 1) * total)]
        assert {found for found, _ in places} == {epoch}
        assert sorted(index for _, index in places) == list(range(total))


@settings(deadline=None, max_examples=100)
@given(
    lengths=SHARDS,
    seed=SEEDS,
    accumulation=st.integers(1, 4),
    micro=st.integers(1, 5),
    world_size=st.integers(1, 5),
    epochs=st.integers(1, 3),
)
def test_all_ranks_together_read_each_epoch_once(
    lengths: list[int], seed: int, accumulation: int, micro: int, world_size: int, epochs: int
) -> None:
    """The union over ranks, step by step, is every sample once per epoch; all ranks have equal batches."""
    order, batch_size = SampleOrder(lengths, seed), accumulation * micro * world_size
    steps = epochs * sum(lengths) // batch_size + 1
    read: list[EpochIndex] = []
    for step in range(steps):
        parts = [
            micro_batches(order, step, rank=rank, world_size=world_size, micro_batch_size=micro, batch_size=batch_size)
            for rank in range(world_size)
        ]
        assert {tuple(len(each) for each in part) for part in parts} == {(micro,) * accumulation}
        read += [place for part in parts for each in part for place in each]
    whole_epochs = sorted(place for place in read if place[0] < steps * batch_size // sum(lengths))
    expected = [(epoch, index) for epoch in range(steps * batch_size // sum(lengths)) for index in range(sum(lengths))]
    assert whole_epochs == expected
    assert len(set(read)) == len(read)


@settings(deadline=None, max_examples=100)
@given(lengths=SHARDS, seed=SEEDS, step=st.integers(0, 40), worlds=st.tuples(*[st.integers(1, 4)] * 2), data=st.data())
def test_a_run_may_go_on_with_another_number_of_ranks(
    lengths: list[int], seed: int, step: int, worlds: tuple[int, int], data: st.DataObject
) -> None:
    """The set of images of a step depends on its number alone: a fresh order, asked late, agrees with one from 0."""
    batch_size = worlds[0] * worlds[1] * data.draw(st.integers(1, 4))
    first, second = (
        global_batch(SampleOrder(lengths, seed), step, batch_size=batch_size, world_size=world, micro=1)
        for world in worlds
    )
    assert sorted(first) == sorted(second)
    order = SampleOrder(lengths, seed)
    undisturbed = [
        global_batch(order, number, batch_size=batch_size, world_size=worlds[0], micro=1) for number in range(step + 1)
    ]
    assert undisturbed[-1] == first


def test_ranks_take_turns_along_the_order() -> None:
    """Neighbouring positions go to different ranks, so all ranks read the same window of shards at a time."""
    order = SampleOrder([40], 0)
    for rank in range(2):
        (part,) = micro_batches(order, 1, batch_size=8, micro_batch_size=4, rank=rank, world_size=2)
        assert part == [order.epoch_index(position) for position in range(8 + rank, 16, 2)]


def test_reading_stays_within_a_window_of_shards() -> None:
    """At any time samples of few shards are read, and between two epochs the windows hold other shards."""
    lengths = [5] * (4 * WINDOW_SHARDS)
    order = SampleOrder(lengths, 3)
    per_window = 5 * WINDOW_SHARDS
    windows = [
        {index // 5 for index in order.epoch(epoch)[start : start + per_window].tolist()}
        for epoch in range(2)
        for start in range(0, sum(lengths), per_window)
    ]
    assert {len(window) for window in windows} == {WINDOW_SHARDS}
    assert windows[0] not in windows[4:]


def test_every_order_of_a_small_set_is_possible() -> None:
    """With few shards the epoch is one shuffle of all samples: each of three in each place a third of the time."""
    first = [int(SampleOrder([2, 1], seed).epoch(0)[0]) for seed in range(900)]
    counts = np.bincount(first, minlength=3)
    assert abs(counts - 300).max() < 4 * (900 * 1 / 3 * 2 / 3) ** 0.5


def test_steps_follow_each_other_without_gaps() -> None:
    """Positions of consecutive steps join; an epoch that does not divide runs over into the next."""
    assert [position for step in range(3) for position in batch_positions(step, 7)] == list(range(21))
    places = global_batch(SampleOrder([10], 0), 1, world_size=1, batch_size=8)
    assert [epoch for epoch, _ in places] == [0, 0, 1, 1, 1, 1, 1, 1]


def test_seed_and_epoch_change_the_order() -> None:
    """Different seeds and different epochs are different orders."""
    orders = {tuple(SampleOrder([50], seed).epoch(epoch).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_early_positions_are_not_favoured() -> None:
    """First places are spread over the data: the order of the files on disk does not show through."""
    order = SampleOrder([10] * 100, 0)
    first = [order.epoch_index(epoch * 1000)[1] for epoch in range(400)]
    assert abs(np.mean(first) - 499.5) < 4 * 288.7 / 400**0.5


@pytest.mark.parametrize(("batch_size", "micro_batch_size", "world_size"), [(30, 4, 2), (8, 16, 1), (8, 8, 2)])
def test_an_indivisible_batch_is_refused(batch_size: int, micro_batch_size: int, world_size: int) -> None:
    """The line names the three numbers."""
    with pytest.raises(ConfigError, match=f"batch_size {batch_size} .* {micro_batch_size} x {world_size} ="):
        accumulation_steps(batch_size, micro_batch_size, world_size)


@settings(deadline=None, max_examples=50)
@given(total=SIZES, seed=SEEDS, labelled=st.booleans(), data=st.data())
def test_subsets_are_nested(total: int, seed: int, labelled: bool, data: st.DataObject) -> None:
    """A smaller subset is the beginning of a larger one, without repetitions."""
    labels = np.random.default_rng(seed).integers(-1, 7, total) if labelled else None
    large = data.draw(st.integers(1, total))
    small = data.draw(st.integers(1, large))
    chosen = subset(total, large, seed, labels)
    np.testing.assert_array_equal(subset(total, small, seed, labels), chosen[:small])
    assert len(set(chosen.tolist())) == large
    assert 0 <= chosen.min() <= chosen.max() < total


@settings(deadline=None, max_examples=50)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12), seed=SEEDS, data=st.data())
def test_subsets_are_balanced_over_classes(sizes: list[int], seed: int, data: st.DataObject) -> None:
    """Every class has as many images as any other, to within one, unless it has no more."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    count = data.draw(st.integers(1, len(labels)))
    counts = np.bincount(labels[subset(len(labels), count, seed, labels)], minlength=len(sizes))
    unfinished = counts[counts < np.array(sizes)]
    assert counts.max() <= (unfinished.min() + 1 if unfinished.size else counts.max())


def test_which_images_of_a_class_are_chosen_is_chance() -> None:
    """Each image is as likely as any other, and so is each class in a subset smaller than their number."""
    labels = np.repeat(np.arange(4), 5)
    chosen = [subset(20, 2, seed, labels) for seed in range(1000)]
    counts = np.bincount(np.concatenate(chosen), minlength=20)
    assert abs(counts - 100).max() < 4.5 * (1000 * 0.1 * 0.9) ** 0.5


def test_subsets_depend_on_the_seed_and_not_on_the_order() -> None:
    """Choosing images is independent of ordering them, and other seeds choose others."""
    assert set(subset(1000, 100, 0)) != set(subset(1000, 100, 1))
    epoch_start = SampleOrder([1000], 0).epoch(0)[:100].tolist()
    assert len(set(epoch_start) & set(subset(1000, 100, 0).tolist())) < 30


@pytest.mark.parametrize("count", [0, 11])
def test_an_impossible_subset_is_refused(count: int) -> None:
    """Asking for more images than there are is an error, not a silent repetition."""
    with pytest.raises(DataError, match=f"cannot choose {count} images: the split has 10"):
        subset(10, count, 0)
