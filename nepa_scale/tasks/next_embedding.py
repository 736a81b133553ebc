"""NEPA's objective: predict the embedding of the next patch, with the switches of its paper and of what followed it.

One of them is SIGReg, the distance of features from an isotropic Gaussian, which keeps a learned target from
collapsing: sketched isotropic Gaussian regularisation of LeJEPA (arXiv 2511.08544, section 4). Features are isotropic
Gaussian exactly if every projection onto a line is N(0, 1) (Cramér-Wold), so they are projected onto random directions,
and each projection is tested by the statistic of Epps and Pulley (1983): how far its empirical characteristic function
is from the Gaussian's. LeNEPA (arXiv 2607.00958) puts it in the place of next-embedding prediction's stop-gradient and
tests the tokens within each sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from nepa_scale.config.task_settings import PretrainConfig
from nepa_scale.models.nepa_vit import NepaViT
from nepa_scale.models.objective import Diagnostics, next_embedding_loss, plain_fp32
from nepa_scale.tasks.costs import NODES, SLICES
from nepa_scale.tasks.objective_base import Objective, draw_mask, masked_inputs
from nepa_scale.tasks.task import parameter_dtype

#: Characteristic functions are compared from 0 to here: both are symmetric, and their weight exp(-t^2 / 2) is small
#: beyond (LeJEPA's code).
LARGEST_NODE = 3.0


def random_slices(width: int, device: torch.device) -> Tensor:
    """Draw ``SLICES`` directions, unit vectors in the columns of [width, SLICES], from torch's global generator."""
    return F.normalize(torch.randn(width, SLICES, device=device), dim=0)


def sigreg(features: Tensor, slices: Tensor) -> Tensor:
    """Return the Epps-Pulley statistic of N features against N(0, 1), averaged over images and slices; a scalar.

    For x_1 ... x_N, the features [B, N, D] of one image on one of the slices [D, M]:
    N * integral over t of |mean_n exp(i t x_n) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt, by the trapezoidal rule.
    On average 1.05 for samples of N(0, I), whatever N, and growing with N for anything else. In fp32 always.
    """
    nodes = torch.linspace(0, LARGEST_NODE, NODES, device=features.device)
    gaussian = torch.exp(-nodes.square() / 2)
    with torch.autocast(features.device.type, enabled=False), plain_fp32():
        phases = (features.float() @ slices)[..., None] * nodes  # [B, N, M, nodes]
    distance = (phases.cos().mean(1) - gaussian).square() + phases.sin().mean(1).square()
    both_sides = 2 * torch.trapezoid(distance * gaussian, nodes)  # of t and -t
    return features.shape[1] * both_sides.mean()


MOST_COMPILED = 8
"""Steps of the horizon whose losses are compiled: torch's limit of compilations of one function."""


class NextEmbedding(Objective):
    """Images [B, 3, H, W] -> the NEPA loss (paper Eq. 2-3) with the switches of Table 1a and c, and of its successors.

    With ``mask_ratio`` r, training puts a learned token in the place of round(r N) of the N patch embeddings that go
    into the blocks, drawn anew for each image, uniformly and without replacement. (The authors name the ratio and
    not the sampler.) The class token is never masked; targets stay clean, and all positions are predicted.

    With ``horizon`` K > 1 each position predicts K embeddings at once (arXiv 2610.02203): the next one by the output
    itself, as always, the K - 1 after it by a linear layer on that output; the loss is the mean over all K. How that
    paper makes its further predictions is not known to us; this is the least that does.

    With ``sigreg`` w, training adds w times SIGReg of the patches of each image, the mean of that of their embeddings
    and that of their outputs (LeNEPA, arXiv 2607.00958, without its projector: its own ablation).
    """

    def __init__(self, backbone: NepaViT, section: PretrainConfig) -> None:
        super().__init__(backbone)
        width = backbone.embed_dim
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width)) if section.mask_ratio else None
        self.ahead = nn.Linear(width, (section.horizon - 1) * width) if section.horizon > 1 else None
        if self.ahead is not None:
            trunc_normal_(self.ahead.weight, std=0.02)
            nn.init.zeros_(self.ahead.bias)
        self._section = section
        self._last_is_idle = section.idle_tokens > 0
        self._plain_loss: Callable[..., Tensor] = partial(
            next_embedding_loss,
            shift=section.shift,
            stop_gradient=section.stop_gradient,
            distance=section.distance,
            temperature=section.temperature,
        )
        self._loss: Callable[..., Tensor] = self._plain_loss

    def compile_loss(self) -> None:
        """Compile the comparison of embeddings and predictions: it is a chain of small steps over all tokens.

        Each step of the horizon is compiled by itself, and torch compiles a function a few times only.
        """
        if self._section.horizon <= MOST_COMPILED:
            self._loss = torch.compile(self._loss, dynamic=False)

    def embeddings(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Input embeddings and predictions from the unmasked image, both [B, P + N, D]."""
        return self.backbone.next_embeddings(images.to(parameter_dtype(self.backbone)))

    def forward(self, images: Tensor) -> Tensor:
        """The loss, a scalar in fp32.

        The last token predicts nothing, and under a causal mask no other looks at it: it stays out of the blocks.
        """
        z = self.backbone.embed(images.to(parameter_dtype(self.backbone)))
        inputs = z
        if self.mask_token is not None and self.training:
            inputs = masked_inputs(z, self._draw_mask(z), self.mask_token)
        if self._last_is_idle:
            inputs = inputs[:, :-1]
        z_hat = self.backbone.encode(inputs, causal=self.backbone.causal)
        if self.spread is not None:
            self.spread.update(z, z_hat)
        loss = self._compared(z, z_hat, self._loss)
        return loss + self._section.sigreg * self._irregularity(z, z_hat) if self._regularised else loss

    @property
    def _regularised(self) -> bool:
        return self.training and self._section.sigreg > 0

    def _compared(self, z: Tensor, z_hat: Tensor, loss: Callable[..., Tensor]) -> Tensor:
        """The mean over the horizon of the ``loss`` of z_hat [B, T or T - 1, D], a scalar."""
        further: tuple[Tensor, ...] = ()
        if self.ahead is not None:
            further = self.ahead(z_hat[:, : z.shape[1] - 1]).chunk(self._section.horizon - 1, dim=-1)
        with plain_fp32():
            losses = [loss(z, prediction, offset=k) for k, prediction in enumerate((z_hat, *further), start=1)]
        return torch.stack(losses).mean() if further else losses[0]

    def _irregularity(self, z: Tensor, z_hat: Tensor) -> Tensor:
        """SIGReg of the patches of embeddings and outputs [B, P + N, D], of which the last output may be missing."""
        slices, prefix = random_slices(z.shape[-1], z.device), self.backbone.num_prefix_tokens
        return (sigreg(z[:, prefix:], slices) + sigreg(z_hat[:, prefix:], slices)) / 2

    def _draw_mask(self, z: Tensor) -> Tensor:
        """Draw which patches of z [B, P + N, D] to mask, [B, N], from torch's global generator."""
        patches = z.shape[1] - self.backbone.num_prefix_tokens
        return draw_mask(len(z), patches, self._section.mask_ratio, z.device)

    def scored(self, images: Tensor) -> tuple[Tensor, ...]:
        """Embeddings and predictions [B, P + N, D] of unmasked images; where it is not minus their cosine, the loss."""
        z, z_hat = self.embeddings(images)
        plain = self._section.distance == "cosine" and self.ahead is None
        return (z, z_hat) if plain else (z, z_hat, self._compared(z, z_hat, self._plain_loss))

    def new_sums(self, device: torch.device) -> Diagnostics:
        """Sums of NEPA's diagnostics."""
        return Diagnostics(
            self.backbone.embed_dim,
            device,
            num_prefix_tokens=self.backbone.num_prefix_tokens,
            shift=self._section.shift,
            chance=self._chance() if self._section.distance == "infonce" else None,
        )

    def _chance(self) -> float:
        """InfoNCE's loss of guessing: the mean over the horizon of the logarithm of how many targets there are."""
        tokens = self.backbone.num_prefix_tokens + self.backbone.patch_embed.num_patches
        offsets = range(1, self._section.horizon + 1) if self._section.shift else (0,)
        return sum(math.log(tokens - offset) for offset in offsets) / len(offsets)
