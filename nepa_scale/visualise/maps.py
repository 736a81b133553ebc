"""Attention and prediction maps of single query patches (paper, Figure 5): numbers only, no drawing.

Of a query patch at token t, with h the output of the final norm at t and e_j the input embedding of patch j:

* attention: the probabilities with which token t reads each patch, mean over the chosen blocks, then reduced over
  heads. They are those of the forward pass itself, after QK-norm, RoPE, mask and softmax. What falls on the class
  token is kept apart, so a map and its ``on_prefix`` sum to 1 (for a single head and for the mean).
* similarity: cosine(h, e_j) of every patch j. h predicts the embedding of the patch after the query.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nepa_scale.models.nepa_vit import NepaViT


@dataclass(frozen=True)
class QueryMaps:
    """The maps of one query patch on a grid of H x W patches."""

    patch: int
    """the query's place in raster order"""
    attention: Tensor
    """[M, H, W]: one map for each head, or a single one that stands for all"""
    on_prefix: Tensor
    """[M]: attention on the class token; 0 without one"""
    similarity: Tensor
    """[H, W]: cosine between the prediction at the query and each patch's embedding"""


@torch.no_grad()
def query_maps(
    backbone: NepaViT, image: Tensor, patches: Sequence[int], *, layers: Sequence[int], heads: str
) -> list[QueryMaps]:
    """Return the maps of ``patches`` of one image [3, H, W].

    Args:
        layers: indices of the blocks whose attention is averaged.
        heads: ``mean`` or ``max`` over the heads, or ``none``: a map for each head.
    """
    prefix, grid = backbone.num_prefix_tokens, backbone.patch_embed.grid_size
    tokens = [prefix + patch for patch in patches]
    with _evaluating(backbone), recorded_attention(backbone, layers, tokens) as recorded:
        z, z_hat = backbone.next_embeddings(image[None])
    attention = reduce_heads(torch.stack(recorded).mean(dim=0)[0], heads)
    similarity = F.normalize(z_hat[0, tokens], dim=-1) @ F.normalize(z[0, prefix:], dim=-1).T
    return [
        QueryMaps(
            patch,
            attention=attention[:, index, prefix:].unflatten(-1, grid),
            on_prefix=attention[:, index, :prefix].sum(dim=-1),
            similarity=similarity[index].unflatten(-1, grid),
        )
        for index, patch in enumerate(patches)
    ]


@contextmanager
def recorded_attention(backbone: NepaViT, layers: Sequence[int], tokens: Sequence[int]) -> Iterator[list[Tensor]]:
    """Collect the attention probabilities [B, heads, len(tokens), T] of ``tokens`` in each forward pass inside.

    There is one tensor for each of ``layers``, from the bottom up. The fused kernel does not give them away, so
    these blocks take timm's written-out path meanwhile, whose softmax goes through the (idle) attention dropout.
    """
    recorded: list[Tensor] = []
    modules: list[Any] = [block.attn for index, block in enumerate(backbone.blocks) if index in layers]
    fused = [module.fused_attn for module in modules]

    def record(_dropout: nn.Module, inputs: tuple[Tensor]) -> None:
        recorded.append(inputs[0][:, :, tokens])

    hooks = [module.attn_drop.register_forward_pre_hook(record) for module in modules]
    try:
        for module in modules:
            module.fused_attn = False
        yield recorded
    finally:
        for hook, module, before in zip(hooks, modules, fused, strict=True):
            hook.remove()
            module.fused_attn = before


def reduce_heads(attention: Tensor, heads: str) -> Tensor:
    """Reduce attention [heads, ...] over the heads: [1, ...] for ``mean`` and ``max``, unchanged for ``none``."""
    if heads == "none":
        return attention
    return attention.mean(dim=0, keepdim=True) if heads == "mean" else attention.amax(dim=0, keepdim=True)


@contextmanager
def _evaluating(backbone: NepaViT) -> Iterator[None]:
    """No stochastic depth and no rescaled RoPE inside."""
    was_training = backbone.training
    backbone.eval()
    try:
        yield
    finally:
        backbone.train(was_training)
