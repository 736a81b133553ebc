"""The next-embedding loss, and the diagnostics that tell whether a low loss means anything.

The target of NEPA is learned, so the loss alone cannot be compared between runs: embeddings that vary little
from patch to patch are easy to predict. ``Diagnostics`` therefore sets the cosine against what two predictors
without any model reach, and measures how many directions the features use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

#: Below this much room above the baseline, skill would be the ratio of two rounding errors.
_LEAST_ROOM = 1e-5


@contextmanager
def plain_fp32() -> Iterator[None]:
    """Meanwhile compute products of fp32 in fp32: on GPUs training's are TF32, which rounds factors to three digits.

    Use it around a compiled function, not within one. Backward passes stay in TF32.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)


def next_embedding_loss(
    z: Tensor,
    z_hat: Tensor,
    *,
    shift: bool = True,
    stop_gradient: bool = True,
    offset: int = 1,
    distance: str = "cosine",
    temperature: float = 0.1,
) -> Tensor:
    """Return - mean over images and t = 0 .. T-2 of cos(z_hat[t], stopgrad(z[t+1])), a scalar in [-1, 1].

    NEPA, arXiv 2512.16922, Eq. 2-3 and Algorithm 1. ``z`` and ``z_hat`` are [B, T, D]; a class token stands at
    position 0: it predicts the first patch and is never a target. With ``shift`` the last position of ``z_hat`` is
    not looked at and may be missing. In fp32 whatever the inputs are.

    The ablations of Table 1a: without ``shift`` z_hat[t] is compared with z[t] at all T positions, the class token
    included; without ``stop_gradient`` the target is trained like the prediction.

    The variants of NEPA-DiT, arXiv 2610.02203: ``offset`` k compares z_hat[t] with z[t+k]; ``distance`` is another one
    than minus the cosine: ``"mse"``, the mean square of the difference, or ``"infonce"`` at a ``temperature``, which is
    a matrix product (``plain_fp32``).
    """
    targets = z.detach() if stop_gradient else z
    if shift:
        z_hat, targets = z_hat[:, : z.shape[1] - offset], targets[:, offset:]
    if distance == "mse":
        return F.mse_loss(z_hat.float(), targets.float())
    if distance == "infonce":
        return _infonce(z_hat, targets, temperature)
    return -_cosines(z_hat, targets).mean()


def _infonce(predictions: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return the cross-entropy of finding each prediction's target among all targets of its image, a scalar.

    Both are [B, T, D]; the logits are cosines / temperature (CPC, arXiv 1807.03748, Eq. 4). Targets of other images are
    left out: with them the loss would depend on how many devices share a batch.
    """
    with torch.autocast(predictions.device.type, enabled=False):
        logits = _unit(predictions) @ _unit(targets).transpose(1, 2) / temperature
    own = torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)
    return F.cross_entropy(logits.flatten(0, 1), own.flatten())


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """Return cos(a, b) over the last dimension, in fp32; 0 where either is a null vector."""
    return (_unit(a) * _unit(b)).sum(-1)


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x.float(), dim=-1)


class Diagnostics:
    """Sums over evaluation batches from which ``compute`` derives the metrics of an evaluation of pre-training.

    All state is sums in float64: reduce ``state_tensors()`` over processes (SUM), or ``merge`` two objects.

    ``num_prefix_tokens``: tokens before the first patch (1 with a class token). ``shift``: that of the loss.
    ``chance``: of InfoNCE, the loss of guessing.
    """

    def __init__(
        self,
        embed_dim: int,
        device: torch.device | str = "cpu",
        *,
        num_prefix_tokens: int = 1,
        shift: bool = True,
        chance: float | None = None,
    ) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        self._prefix, self._shift, self._chance = num_prefix_tokens, shift, chance
        # Of the predictions, of the copies, of outputs with their own embeddings (patches; all tokens).
        self._counts, self._cosine_sums = zeros(4), zeros(4)
        self._unit_targets = zeros(embed_dim)
        self._embedding_gram = zeros(embed_dim, embed_dim)
        self._output_gram = zeros(embed_dim, embed_dim)
        self._losses = zeros(2)  # of batches that were given with their loss: its sum, images

    @torch.no_grad()
    def update(self, z: Tensor, z_hat: Tensor, loss: Tensor | None = None) -> None:
        """Add a batch of embeddings and predictions, both [B, P + N, D] with P prefix tokens first.

        ``loss``: the mean over the batch of what is trained, where that is not minus the cosine.
        """
        patches, targets = z[:, self._prefix :], z[:, 1:]
        own = _cosines(z_hat, z)
        cosines = (
            _cosines(z_hat[:, :-1], targets),
            _cosines(patches[:, :-1], patches[:, 1:]),
            own[:, self._prefix :],
            own,
        )
        self._counts += torch.tensor([each.numel() for each in cosines]).to(self._counts)
        self._cosine_sums += torch.stack([each.double().sum() for each in cosines])
        self._unit_targets += _unit(targets).double().sum((0, 1))
        self._embedding_gram += gram(patches)
        self._output_gram += gram(z_hat[:, self._prefix :])
        if loss is not None:
            self._losses += torch.stack([loss.double() * len(z), torch.full_like(loss, len(z)).double()])

    def state_tensors(self) -> list[Tensor]:
        """Return the sums themselves, to be all-reduced in place (SUM); their shapes never change."""
        sums = [self._counts, self._cosine_sums, self._unit_targets, self._embedding_gram, self._output_gram]
        return [*sums, self._losses]

    def merge(self, other: Diagnostics) -> None:
        """Add the sums of ``other``, as if its batches had been given to ``update`` here."""
        for mine, theirs in zip(self.state_tensors(), other.state_tensors(), strict=True):
            mine.add_(theirs.to(mine))

    def compute(self) -> dict[str, float]:
        """Return the figures over all batches so far. Raises ``ValueError`` when there were none.

        * ``cosine``: mean cos(z_hat[t], z[t+1]) over all targets; ``loss``: what is trained (with shift -cosine, if
          nothing else was asked for), without a regulariser.
        * ``self_cosine``: mean cos(z_hat[t], z[t]) over the patches, 1 for a model that repeats its input.
        * ``copy_baseline``: mean cos(z[t], z[t+1]) over neighbouring patches, the answer "the same again".
          The class token is left out: it has no patch to copy.
        * ``mean_baseline``: cosine of the best constant answer, the norm of the mean unit target.
        * ``skill`` = (cosine - b) / (1 - b) with b the better baseline; 0 when the baseline leaves no room. Of InfoNCE,
          which asks only that the target be nearer than others, 1 - loss / chance.
        * ``effective_rank_embeddings``, ``effective_rank_outputs``: of z and z_hat over the patch tokens.
        """
        if not self._counts[0]:
            raise ValueError("no batch has been evaluated yet")
        cosine, copy, own_of_patches, own = (self._cosine_sums / self._counts).tolist()
        mean = (self._unit_targets / self._counts[0]).norm().item()
        room = 1 - max(copy, mean)
        skill = (cosine - max(copy, mean)) / room if room > _LEAST_ROOM else 0.0
        loss = -cosine if self._shift else -own
        if self._losses[1]:
            loss = (self._losses[0] / self._losses[1]).item()
        return {
            "cosine": cosine,
            "loss": loss,
            "self_cosine": own_of_patches,
            "copy_baseline": copy,
            "mean_baseline": mean,
            "skill": skill if self._chance is None else 1 - loss / self._chance,
            "effective_rank_embeddings": effective_rank(self._embedding_gram),
            "effective_rank_outputs": effective_rank(self._output_gram),
        }


def gram(features: Tensor) -> Tensor:
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
