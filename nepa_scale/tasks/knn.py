"""k-NN classification of validation images by training images, on a backbone as it is: nothing is trained.

The vote is DINO's (arXiv 2104.14294): cosine similarity s, the k nearest, each with weight exp(s / 0.07). The
training features are never kept: they stream past the queries, which hold their best k so far, on all ranks at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from nepa_scale.config.data_facts import dataset_facts
from nepa_scale.config.early_stop import KNN
from nepa_scale.data.datasets import LabelledImages
from nepa_scale.data.sampler import subset
from nepa_scale.data.sources import Source
from nepa_scale.data.transforms import classify_eval
from nepa_scale.distributed.process_group import sum_over_ranks
from nepa_scale.distributed.world import World
from nepa_scale.models.objective import plain_fp32
from nepa_scale.tasks.task import Task, parameter_dtype

TEMPERATURE = 0.07
TIE_STEP = 2.0**-50
ONLINE_NEIGHBOURS = 20  # as ``probe.knn_neighbours``
MOST_ONLINE_IMAGES = 10_000

#: Images and labels of a batch, and whether it counts: under ZeRO-3 a forward pass is a collective all the same.
Batches = Iterable[tuple[tuple[Tensor, Tensor], bool]]

#: Features [B, D] of images [B, 3, H, W], under the names of the votes to be held.
Pooled = Callable[[Tensor], dict[str, Tensor]]


class Neighbours:
    """The nearest training images of queries [Q, D] seen so far, at most ``count`` of each."""

    def __init__(self, queries: Tensor, count: int) -> None:
        self._queries = F.normalize(queries.float(), dim=1)
        # Similarity less a trace of the image's index: of equally near images the first counts, on any device.
        self._keys = torch.full((len(queries), count), -torch.inf, dtype=torch.float64, device=queries.device)
        self._labels = torch.zeros_like(self._keys, dtype=torch.int64)

    def add(self, features: Tensor, labels: Tensor, indices: Tensor) -> None:
        """Let training images pass: features [n, D], labels [n], and their places [n] in the training set."""
        # Near ones differ in the third digit.
        with torch.autocast(self._queries.device.type, enabled=False), plain_fp32():
            similarity = self._queries @ F.normalize(features.float(), dim=1).T
        self._keep(similarity.double() - indices.double() * TIE_STEP, labels.expand(len(self._queries), -1))

    def merge(self, world: World) -> None:
        """Merge the neighbours that the ranks found, each among its own training images, for the same queries."""
        keys = self._keys.new_zeros(world.size, *self._keys.shape)
        labels = self._labels.new_zeros(keys.shape)
        keys[world.rank], labels[world.rank] = self._keys, self._labels
        sum_over_ranks([keys, labels])
        self._keys.fill_(-torch.inf)
        for of_rank, their_labels in zip(keys, labels, strict=True):
            self._keep(of_rank, their_labels)

    def votes(self, num_classes: int) -> Tensor:
        """Sum of the neighbours' weights for each class [Q, C]."""
        scores = self._keys.new_zeros(len(self._keys), num_classes)
        return scores.scatter_add_(1, self._labels, (self._keys / TEMPERATURE).exp())

    def _keep(self, keys: Tensor, labels: Tensor) -> None:
        """Keep the best of what is there and of keys and labels [Q, n]."""
        candidates = torch.cat([self._keys, keys], dim=1)
        self._keys, order = candidates.topk(self._keys.shape[1], dim=1)
        self._labels = torch.cat([self._labels, labels], dim=1).gather(1, order)


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
    nearest = {name: Neighbours(of_view, neighbours) for name, of_view in features.items()}
    first = world.rank
    for (images, their_labels), counts in references:
        theirs = pooled(images)
        if not counts:
            continue
        indices = first + world.size * torch.arange(len(images), device=images.device)
        first += world.size * len(images)
        for name, of_view in nearest.items():
            of_view.add(theirs[name], their_labels, indices)
    accuracy = {}
    for name, of_view in nearest.items():
        of_view.merge(world)
        accuracy[name] = (of_view.votes(num_classes).argmax(dim=1) == labels).double().mean().item()
    return accuracy


def _gathered(pooled: Pooled, queries: Batches, num_queries: int, world: World) -> tuple[dict[str, Tensor], Tensor]:
    """Features [Q, D] of all queries by name, and their labels [Q], on every rank."""
    batches = [({**pooled(images), "labels": labels}, counts) for (images, labels), counts in queries]
    gathered = {}
    for name in list(batches[0][0]):
        parts = [batch.pop(name) for batch, _ in batches]
        gathered[name] = parts[0].new_zeros(num_queries, *parts[0].shape[1:])
        mine = [part for part, (_, counts) in zip(parts, batches, strict=True) if counts]
        if mine:
            gathered[name][world.rank :: world.size] = torch.cat(mine)
    sum_over_ranks(gathered.values())
    return gathered, gathered.pop("labels")


class OnlineKnn:
    """k-NN in the middle of pre-training, by up to 10,000 of the images trained on, balanced over classes.

    As in ``task=probe``, but with the attention that is trained, and on the mean of the patch outputs alone.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        section, seed = task.section, task.config.seed
        validation, source = (cast(Source, data.source) for data in (task.eval_data, task.train_data))
        used = task.train_data.indices
        few = used[subset(len(used), min(MOST_ONLINE_IMAGES, len(used)), seed, source.labels[used])]
        still = classify_eval(section.image_size, crop_pct=1.0, standard=task.standard)
        self._queries = LabelledImages(validation, None, still, seed)
        self._references = LabelledImages(source, few, still, seed)
        self._classes = dataset_facts(task.config, task.name).num_classes

    @torch.no_grad()
    def top1(self, world: World, device: torch.device) -> float:
        """The fraction of validation images voted right; every rank calls this, with the module in evaluation."""
        task = self._task
        top1 = top1_of_votes(
            self._pooled,
            task.evaluation_batches(world, device, self._queries),
            task.evaluation_batches(world, device, self._references),
            num_queries=len(self._queries),
            neighbours=min(ONLINE_NEIGHBOURS, len(self._references)),
            num_classes=self._classes,
            world=world,
        )
        return top1[KNN]

    def _pooled(self, images: Tensor) -> dict[str, Tensor]:
        backbone = self._task.backbone
        tokens = backbone.forward_features(images.to(parameter_dtype(backbone)))
        return {KNN: tokens[:, backbone.num_prefix_tokens :].mean(dim=1)}
