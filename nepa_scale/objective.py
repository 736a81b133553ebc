"""The next-embedding loss, and the figures that tell whether a low loss means anything.

The target of NEPA is learned, so the loss alone cannot be compared between runs: embeddings that vary little
from patch to patch are easy to predict. ``Diagnostics`` therefore sets the cosine against what two predictors
without any model reach, and measures how many directions the features use.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Below this much room above the baseline, skill would be the ratio of two rounding errors.
_LEAST_ROOM = 1e-5


def next_embedding_loss(z: Tensor, z_hat: Tensor) -> Tensor:
    """Return - mean over images and t = 0 .. T-2 of cos(z_hat[t], stopgrad(z[t+1])), a scalar in [-1, 1].

    NEPA, arXiv 2512.16922, Eq. 2-3 and Algorithm 1. ``z`` and ``z_hat`` are [B, T, D] with the class token at
    position 0: it predicts the first patch and is never a target. In fp32 whatever the inputs are.
    """
    return -_cosines(z_hat[:, :-1], z[:, 1:].detach()).mean()


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """Return cos(a, b) over the last dimension, in fp32; 0 where either is a null vector."""
    return (_unit(a) * _unit(b)).sum(-1)


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x.float(), dim=-1)


class Diagnostics:
    """Sums over evaluation batches from which ``compute`` derives the figures of a pretraining evaluation.

    All state is sums in float64: reduce ``state_tensors()`` over processes (SUM), or ``merge`` two objects.
    """

    def __init__(self, embed_dim: int, device: torch.device | str = "cpu") -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        self._counts = zeros(2)  # predicted positions, copied positions
        self._cosine_sums = zeros(2)  # of the predictions, of the copies
        self._unit_targets = zeros(embed_dim)
        self._embedding_gram = zeros(embed_dim, embed_dim)
        self._output_gram = zeros(embed_dim, embed_dim)

    @torch.no_grad()
    def update(self, z: Tensor, z_hat: Tensor) -> None:
        """Add a batch of embeddings and predictions, both [B, 1 + N, D] with the class token first."""
        patches = z[:, 1:]
        predicted = _cosines(z_hat[:, :-1], patches)
        copied = _cosines(patches[:, :-1], patches[:, 1:])
        self._counts += torch.tensor([predicted.numel(), copied.numel()]).to(self._counts)
        self._cosine_sums += torch.stack([predicted.double().sum(), copied.double().sum()])
        self._unit_targets += _unit(patches).double().sum((0, 1))
        self._embedding_gram += _gram(patches)
        self._output_gram += _gram(z_hat[:, 1:])

    def state_tensors(self) -> list[Tensor]:
        """Return the sums themselves, to be all-reduced in place (SUM); their shapes never change."""
        return [self._counts, self._cosine_sums, self._unit_targets, self._embedding_gram, self._output_gram]

    def merge(self, other: Diagnostics) -> None:
        """Add the sums of ``other``, as if its batches had been given to ``update`` here."""
        for mine, theirs in zip(self.state_tensors(), other.state_tensors(), strict=True):
            mine.add_(theirs.to(mine))

    def compute(self) -> dict[str, float]:
        """Return the figures over all batches so far. Raises ``ValueError`` when there were none.

        * ``cosine``, ``loss`` = -cosine: as in training.
        * ``copy_baseline``: mean cos(z[t], z[t+1]) over neighbouring patches, the answer "the same again".
          The class token (t = 0) is left out: it has no patch to copy.
        * ``mean_baseline``: cosine of the best constant answer, the norm of the mean unit target.
        * ``skill`` = (cosine - b) / (1 - b) with b the better baseline; 0 when the baseline leaves no room.
        * ``effective_rank_embeddings``, ``effective_rank_outputs``: of z and z_hat over the patch tokens.
        """
        if not self._counts[0]:
            raise ValueError("no batch has been evaluated yet")
        cosine, copy = (self._cosine_sums / self._counts).tolist()
        mean = (self._unit_targets / self._counts[0]).norm().item()
        room = 1 - max(copy, mean)
        return {
            "cosine": cosine,
            "loss": -cosine,
            "copy_baseline": copy,
            "mean_baseline": mean,
            "skill": (cosine - max(copy, mean)) / room if room > _LEAST_ROOM else 0.0,
            "effective_rank_embeddings": effective_rank(self._embedding_gram),
            "effective_rank_outputs": effective_rank(self._output_gram),
        }


def _gram(features: Tensor) -> Tensor:
    """Return the sum over tokens of x x^T for features [B, N, D]: [D, D] in float64."""
    flat = features.flatten(0, 1).double()
    return flat.T @ flat


def effective_rank(gram: Tensor) -> float:
    """Return exp(entropy of the normalised singular values) of the features with Gram matrix [D, D].

    Roy & Vetterli, "The effective rank" (EUSIPCO 2007); RankMe (arXiv 2210.02885). From 1, all features on
    one line, to D, equal spread in every direction. The features are neither centred nor normalised.
    """
    singular_values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    shares = F.normalize(singular_values, p=1, dim=0)
    return torch.special.entr(shares).sum().exp().item()
