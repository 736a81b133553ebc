"""NEPA written once more in plain PyTorch, straight from the description of the released model.

The oracle of ``test_model.py`` and ``test_pretrain.py``: it shares no code with timm or ``nepa_scale.models``.
Separate q, k and v layers, a dense causal mask and softmax written out, its own two-dimensional RoPE, and the loss
token by token.
"""

from __future__ import annotations

import math
from functools import reduce

import torch
from torch import Tensor, nn


def rope_angles(grid: int, head_dim: int, scale: float = 1.0) -> Tensor:
    """Return the rotation angles [grid * grid, head_dim]: y then x frequencies, repeated for both halves."""
    frequencies = [100.0 ** (-4 * k / head_dim) for k in range(head_dim // 4)]
    rows = []
    for i in range(grid):
        for j in range(grid):
            y, x = (scale * (2 * (c + 0.5) / grid - 1) for c in (i, j))
            half = [2 * math.pi * c * f for c in (y, x) for f in frequencies]
            rows.append(half + half)
    return torch.tensor(rows, dtype=torch.float64)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate patch tokens [B, heads, N, head_dim]: channel j turns together with channel j + head_dim / 2."""
    first, second = x.chunk(2, dim=-1)
    return x * angles.cos() + torch.cat([-second, first], dim=-1) * angles.sin()


class PlainBlock(nn.Module):
    """One pre-norm block; tensors are copied from the block under test by ``load``."""

    def __init__(self, width: int, heads: int, hidden: int, gated: bool, qk_norm: str) -> None:
        super().__init__()
        self.heads, self.head_dim, self.qk_norm = heads, width // heads, qk_norm
        self.norm_before, self.norm_after = nn.LayerNorm(width, 1e-12), nn.LayerNorm(width, 1e-12)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.gate = nn.Linear(width, hidden) if gated else None
        self.lambda_attention, self.lambda_mlp = (nn.Parameter(torch.ones(width)) for _ in range(2))
        self.q_weight, self.k_weight = (nn.Parameter(torch.ones(self.head_dim)) for _ in range(2))

    def _normalised(self, x: Tensor, weight: Tensor) -> Tensor:
        if self.qk_norm == "none":
            return x
        centred = x - x.mean(-1, keepdim=True)
        return weight * centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)

    def probabilities(self, x: Tensor, angles: Tensor | None, causal: bool) -> Tensor:
        q = self._normalised(self._heads(self.query(x)), self.q_weight)
        k = self._normalised(self._heads(self.key(x)), self.k_weight)
        if angles is not None:
            first = x.shape[1] - len(angles)  # the class token, if there is one, is not rotated
            q, k = (torch.cat([t[:, :, :first], rotate(t[:, :, first:], angles)], dim=2) for t in (q, k))
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.head_dim)
        if causal:
            tokens = x.shape[1]
            scores = scores.masked_fill(torch.ones(tokens, tokens).triu(1).bool(), -math.inf)
        return scores.softmax(-1)

    def attention(self, x: Tensor, angles: Tensor | None, causal: bool) -> Tensor:
        mixed = self.probabilities(x, angles, causal) @ self._heads(self.value(x))
        return self.out(mixed.transpose(1, 2).flatten(2))

    def mlp(self, x: Tensor) -> Tensor:
        if self.gate is None:
            hidden = self.up(x)
            return self.down(0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2))))
        gate = self.gate(x)
        return self.down(gate * torch.sigmoid(gate) * self.up(x))

    def forward(self, x: Tensor, angles: Tensor | None, causal: bool) -> Tensor:
        x = x + self.lambda_attention * self.attention(self.norm_before(x), angles, causal)
        return x + self.lambda_mlp * self.mlp(self.norm_after(x))


class PlainNepa(nn.Module):
    """The whole backbone in float64; ``forward`` returns embeddings and predictions, both [B, T, D].

    Without a class token T is the number of patches, else one more. ``mask`` [B, N] puts ``mask_token`` in the place
    of patches in what the blocks see.
    """

    def __init__(
        self,
        model: nn.Module,
        width: int,
        depth: int,
        heads: int,
        patch: int,
        *,
        class_token: bool,
        absolute_tokens: int | None,
        **block: object,
    ) -> None:
        super().__init__()
        self.head_dim = width // heads
        self.cls = nn.Parameter(torch.zeros(1, 1, width)) if class_token else None
        self.positions = None if absolute_tokens is None else nn.Parameter(torch.zeros(1, absolute_tokens, width))
        self.projection = nn.Conv2d(3, width, patch, patch)
        self.blocks = nn.ModuleList(PlainBlock(width, heads, **block) for _ in range(depth))  # type: ignore[arg-type]
        self.norm = nn.LayerNorm(width, 1e-12)
        self.load_state_dict(_renamed(model.state_dict(), self.state_dict()))
        self.double()

    def forward(
        self,
        images: Tensor,
        causal: bool,
        scale: float = 1.0,
        mask: Tensor | None = None,
        mask_token: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        maps = self.projection(images.double())
        patches = maps.flatten(2).transpose(1, 2)
        seen = patches
        if mask is not None and mask_token is not None:
            seen = patches.clone()
            seen[mask] = mask_token.double().flatten()
        z, x = patches, seen
        if self.cls is not None:
            z, x = (torch.cat([self.cls.expand(len(images), 1, -1), part], dim=1) for part in (patches, seen))
        angles = None
        if self.positions is None:
            angles = rope_angles(maps.shape[-1], self.head_dim, scale)
        else:
            x = x + self.positions
        for block in self.blocks:
            x = block(x, angles, causal)
        return z, self.norm(x)


def plain_loss(z: Tensor, z_hat: Tensor, *, shift: bool, stop_gradient: bool = True) -> Tensor:
    """Return minus the mean cosine over all pairs of output and target, written out pair by pair."""
    targets = z.detach() if stop_gradient else z
    cosines = [
        (z_hat[b, t] * targets[b, u]).sum() / (z_hat[b, t].square().sum().sqrt() * targets[b, u].square().sum().sqrt())
        for b in range(len(z))
        for t in range(z.shape[1])
        if (u := t + int(shift)) < z.shape[1]
    ]
    return -torch.stack(cosines).mean()


_NAMES = {
    "cls_token": "cls",
    "pos_embed": "positions",
    "patch_embed.proj": "projection",
    "norm1": "norm_before",
    "norm2": "norm_after",
    "attn.proj": "out",
    "attn.q_norm.weight": "q_weight",
    "attn.k_norm.weight": "k_weight",
    "mlp.fc1": "up",
    "mlp.fc2": "down",
    "gamma_1": "lambda_attention",
    "gamma_2": "lambda_mlp",
}


def _renamed(theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a timm-style state dict under this module's names, fused ones split."""
    state = dict(ours)  # what the model under test lacks (q and k weights, lambdas) stays at 1
    for name, tensor in theirs.items():
        if "attn.qkv" in name:
            parts = dict(zip(("query", "key", "value"), tensor.chunk(3), strict=True))
            state |= {name.replace("attn.qkv", part): value for part, value in parts.items()}
        elif "mlp.fc1" in name and name.replace("mlp.fc1", "gate") in ours:
            gate, up = tensor.chunk(2)
            state |= {name.replace("mlp.fc1", "gate"): gate, name.replace("mlp.fc1", "up"): up}
        else:
            renamed = reduce(lambda text, pair: text.replace(*pair), _NAMES.items(), name)
            state[renamed] = tensor
    return state
