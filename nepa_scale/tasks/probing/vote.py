"""Top-1 of the nearest neighbours' vote on a backbone as it is: images stream past, on all ranks at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from nepa_scale.distributed.process_group import sum_over_ranks

#: Images and labels of a batch, and whether it counts: under ZeRO-3 a forward pass is a collective all the same.
from nepa_scale.distributed.world import World
from nepa_scale.tasks.probing.neighbours import Neighbours

#: Images and labels of a batch, and whether it counts: under ZeRO-3 a forward pass is a collective all the same.
Batches = Iterable[tuple[tuple[Tensor, Tensor], bool]]

#: Features [B, D] of images [B, 3, H, W], under the names of the votes to be held.
Pooled = Callable[[Tensor], dict[str, Tensor]]


def top1_of_votes(
    pooled: Pooled,
    queries: Batches,
    references: Batches,
    *,
    num_queries: int,
    neighbours: int,
    num_classes: int,
    world: World,
) -> dict[str, float]:
    """Fractions of ``queries`` whose class the nearest ``references`` vote for, by the names of ``pooled``.

    Both are dealt out to the ranks as ``Task.evaluation_batches`` does: rank r of n has every n-th image from r on.
    """
    features, labels = _gathered(pooled, queries, num_queries, world)
    found = {name: Neighbours(each, neighbours) for name, each in features.items()}
    first = world.rank
    for (images, their_labels), counts in references:
        theirs = pooled(images)
        if not counts:
            continue
        places = first + world.size * torch.arange(len(images), device=images.device)
        first += world.size * len(images)
        for name, each in found.items():
            each.add(theirs[name], their_labels, places)
    accuracy = {}
    for name, each in found.items():
        each.share(world)
        accuracy[name] = (each.votes(num_classes).argmax(dim=1) == labels).double().mean().item()
    return accuracy


def _gathered(pooled: Pooled, queries: Batches, num_queries: int, world: World) -> tuple[dict[str, Tensor], Tensor]:
    """Features [Q, D] of all queries by name, and their labels [Q], on every rank."""
    batches = [({**pooled(images), "labels": labels}, counts) for (images, labels), counts in queries]
    whole = {}
    for name in list(batches[0][0]):
        parts = [batch.pop(name) for batch, _ in batches]
        whole[name] = parts[0].new_zeros(num_queries, *parts[0].shape[1:])
        mine = [part for part, (_, counts) in zip(parts, batches, strict=True) if counts]
        if mine:
            whole[name][world.rank :: world.size] = torch.cat(mine)
    sum_over_ranks(whole.values())
    return whole, whole.pop("labels")
