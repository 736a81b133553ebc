"""The k nearest neighbours of validation images among the training images, and their weighted vote.

The vote is DINO's (arXiv 2104.14294): cosine similarity s, the k nearest, each with weight exp(s / 0.07). The
training features are never kept: they stream past the queries, which hold their best k so far.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nepa_scale.distributed.process_group import sum_over_ranks
from nepa_scale.distributed.world import World

TEMPERATURE = 0.07
TIE_STEP = 2.0**-50


class Neighbours:
    """The nearest training images of queries [Q, D] seen so far, at most ``count`` of each."""

    def __init__(self, queries: Tensor, count: int) -> None:
        self._queries = F.normalize(queries.float(), dim=1)
        # Similarity less a trace of the image's index: of equally near images the first counts, on any device.
        self._keys = torch.full((len(queries), count), -torch.inf, dtype=torch.float64, device=queries.device)
        self._labels = torch.zeros_like(self._keys, dtype=torch.int64)

    def add(self, features: Tensor, labels: Tensor, indices: Tensor) -> None:
        """Let training images pass: features [n, D], labels [n], and their places [n] in the training set."""
        similarity = self._queries @ F.normalize(features.float(), dim=1).T
        self._keep(similarity.double() - indices.double() * TIE_STEP, labels.expand(len(self._queries), -1))

    def share(self, world: World) -> None:
        """Bring together what the ranks found, each among its own training images, for the same queries."""
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
