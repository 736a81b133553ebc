"""NEPA as the authors' code does it, plainly: what ``train_step.py`` measures this project against.

Separate query, key and value layers, QK-norm, RoPE on the patch tokens, a causal ``scaled_dot_product_attention``,
LayerScale, a GELU MLP, a convolution as patch embedding, all of it eager; AdamW as the Trainer of transformers
builds it (torch's, ``foreach`` by default), clipped at norm 1. Written anew from the paper and a description.

Shapes: B images, N patches, T = 1 + N tokens, width D.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-12


def rope_table(grid: int, head_dim: int, scale: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [N, head_dim] of the patch centres of a square grid, coordinates multiplied by ``scale``."""
    centres = scale * (2 * (torch.arange(grid) + 0.5) / grid - 1)
    places = torch.stack(torch.meshgrid(centres, centres, indexing="ij"), dim=-1).flatten(0, 1)
    frequencies = 100.0 ** (-torch.arange(0, 1, 4 / head_dim))
    angles = (2 * math.pi * places[:, :, None] * frequencies).flatten(1).tile(2)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the patch tokens of x [B, heads, T, head_dim]; the class token stays."""
    first, patches = x.split((x.shape[2] - len(cos), len(cos)), dim=2)
    a, b = patches.chunk(2, dim=-1)
    return torch.cat([first, patches * cos + torch.cat([-b, a], dim=-1) * sin], dim=2)


class Attention(nn.Module):
    """Causal self-attention with three separate projections."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head_dim = width // heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.query_norm, self.key_norm = (
            nn.LayerNorm(self.head_dim, eps=EPS, elementwise_affine=False) for _ in range(2)
        )
        self.dense = nn.Linear(width, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [B, T, D] -> [B, T, D]."""
        projected = (self.query(x), self.key(x), self.value(x))
        q, k, v = (each.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for each in projected)
        q, k = rotate(self.query_norm(q), cos, sin), rotate(self.key_norm(k), cos, sin)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.dense(mixed.transpose(1, 2).reshape(x.shape))


class Block(nn.Module):
    """A pre-norm block with LayerScale."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_before, self.norm_after = nn.LayerNorm(width, eps=EPS), nn.LayerNorm(width, eps=EPS)
        self.attention = Attention(width, heads)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale_attention, self.scale_mlp = (nn.Parameter(torch.full((width,), 1e-5)) for _ in range(2))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [B, T, D] -> [B, T, D]."""
        x = x + self.scale_attention * self.attention(self.norm_before(x), cos, sin)
        return x + self.scale_mlp * self.down(F.gelu(self.up(self.norm_after(x))))


class ReferenceNepa(nn.Module):
    """Images [B, 3, H, W] -> the loss: minus the mean cosine of each prediction and the next patch's embedding."""

    def __init__(self, width: int, depth: int, heads: int, patch: int, image_size: int) -> None:
        super().__init__()
        self.grid, self.head_dim = image_size // patch, width // heads
        self.projection = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, images: Tensor, scale: float | None = None) -> Tensor:
        """The loss, a scalar; ``scale`` of the RoPE coordinates is drawn log-uniformly from [0.5, 2] if None."""
        patches = self.projection(images).flatten(2).transpose(1, 2)
        z = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1)
        if scale is None:
            scale = math.exp(float(torch.empty(()).uniform_(-math.log(2), math.log(2))))
        cos, sin = rope_table(self.grid, self.head_dim, scale)
        x = z
        for block in self.blocks:
            x = block(x, cos, sin)
        prediction, target = F.normalize(self.norm(x)[:, :-1], dim=-1), F.normalize(z.detach()[:, 1:], dim=-1)
        return -(prediction * target).sum(-1).mean()


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def reference_step(
    model: ReferenceNepa, *, lr: float, weight_decay: float, betas: tuple[float, float]
) -> Callable[[Tensor], float]:
    """A function that takes one optimiser step on images [B, 3, H, W] and returns the loss."""
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=betas, eps=1e-8)

    def step(images: Tensor) -> float:
        loss = model(images)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step
