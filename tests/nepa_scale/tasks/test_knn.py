"""The neighbours' vote against scikit-learn, whatever the order and portions in which training images pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from nepa_scale.distributed.world import World
from nepa_scale.tasks.knn import TEMPERATURE, Neighbours


def features(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features of five classes that overlap, with an offset, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(5, size=count)
    values = rng.normal(size=(count, 12)) + 1.5 * np.eye(5, 12)[labels] + 0.3
    return torch.tensor(values, dtype=torch.float32), torch.tensor(labels)


def streamed(queries: Tensor, count: int, train: tuple[Tensor, Tensor], portions: Sequence[Tensor]) -> Neighbours:
    """The neighbours after the training images have passed in portions of indices."""
    found = Neighbours(queries, count)
    for indices in portions:
        found.add(train[0][indices], train[1][indices], indices)
    return found


@pytest.mark.parametrize("count", [1, 5, 20, 300])
def test_vote_is_scikit_learns(count: int) -> None:
    """Cosine, k nearest, weight exp(similarity / 0.07): the same shares of the vote as scikit-learn's classifier."""
    train, (queries, _) = features(300, 0), features(80, 1)
    votes = streamed(queries, count, train, torch.arange(300).split(64)).votes(5)
    oracle = KNeighborsClassifier(
        count, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / TEMPERATURE)
    )
    expected = oracle.fit(train[0], train[1]).predict_proba(queries)
    np.testing.assert_allclose(votes / votes.sum(1, keepdim=True), expected, atol=2e-5)


def test_order_and_portions_do_not_matter() -> None:
    """Any order in portions of any size finds the same neighbours."""
    train, (queries, _) = features(200, 0), features(30, 1)
    mixed = torch.randperm(200, generator=torch.Generator().manual_seed(0)).split(7)
    first, second = (streamed(queries, 10, train, portions).votes(5) for portions in ([torch.arange(200)], mixed))
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


def test_of_equally_near_images_the_first_count() -> None:
    """Copies of one image under different labels: the lowest indices vote, in whatever order they pass."""
    copies = torch.ones(50, 3), torch.arange(50) % 5
    for order in (torch.arange(50), torch.arange(50).flip(0)):
        votes = streamed(torch.ones(2, 3), 4, copies, order.split(8)).votes(5)
        assert torch.equal(votes > 0, torch.tensor([True, True, True, True, False]).expand(2, 5))


def test_fewer_images_than_neighbours() -> None:
    """When there are not enough training images, those there are vote."""
    train, (queries, _) = features(3, 0), features(4, 1)
    votes = streamed(queries, 20, train, [torch.arange(3)]).votes(5)
    assert torch.isfinite(votes).all()
    assert torch.equal(votes > 0, torch.isin(torch.arange(5), train[1]).expand(4, 5))


def test_sharing_among_one_changes_nothing() -> None:
    """A single process is the whole world."""
    train, (queries, _) = features(100, 0), features(10, 1)
    found = streamed(queries, 5, train, [torch.arange(100)])
    before = found.votes(5)
    found.merge(World())
    assert torch.equal(found.votes(5), before)
