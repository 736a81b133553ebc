"""Layers of the backbone that timm lacks: patches as one matrix product, a seeded 2-D RoPE, and a block to compile.

The block is that of timm's ``Eva`` written for ``torch.compile``: the same function, in steps that fuse. timm's own is
kept for everything else (TorchScript, torch.fx, masks, stochastic depth). Compiled as it stands it gains little on a
CPU: its concatenations around RoPE are not vectorised, LayerNorm becomes Welford's serial recurrence, and each bias is
copied into the output of its matrix product first. Here the prefix tokens are rotated by the angle 0, the halves of a
head are exchanged by a flip whose sign is in the table of sines, norms take two passes, and biases are added by the
kernel that comes next. On a CPU short sequences attend by plain products with a fused softmax.

Shapes: B images, T = P + N tokens (P prefix tokens), width D, H heads of width d.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from timm.layers import AttentionRope, GluMlp, Mlp, RotaryEmbeddingDinoV3
from timm.layers.pos_embed_sincos import make_coords_dinov3
from timm.models.eva import EvaBlock
from torch import Tensor, nn


class SeededRope(RotaryEmbeddingDinoV3):
    """2-D RoPE whose training-time scale, one log-uniform factor per forward pass, can come from a seed.

    A run must not depend on how many devices share its batch: they all state the same seed for a step instead
    of drawing each from its own generator.
    """

    if TYPE_CHECKING:  # TorchScript cannot read these
        feat_shape: list[int]
        next_seed: int | None
        periods: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take timm's arguments."""
        super().__init__(*args, **kwargs)
        self.next_seed = None
        self._placed: dict[tuple[int, int, torch.device], Tensor] = {}

    def get_embed(self, shape: list[int] | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """Return sines and cosines [N, 2 * head_dim] of the grid ``shape``, rescaled at random in training.

        The table is made anew in fp32 each time: timm's cached one is rounded when the model is cast to bf16.
        """
        grid = list(self.feat_shape) if shape is None else shape
        if self.training and not torch.jit.is_scripting():  # noqa: SIM108  TorchScript leaves out whole branches only
            embed = self._drawn_embed(grid)
        else:
            embed = self._create_embed(grid)
        return embed if dtype is None else embed.to(dtype)

    @torch.jit.ignore
    @torch.compiler.disable  # each step's seed is a new constant, for which the graph would be compiled anew
    def _drawn_embed(self, grid: list[int]) -> Tensor:
        """What timm's ``_create_embed`` makes, from coordinates [N, 2] that are on the device already.

        timm makes them on the CPU in each pass, and their copy to a GPU has the host wait until that is idle.
        """
        coordinates = self._coordinates(grid[0], grid[1])
        if self.rescale_coords is not None:
            coordinates = coordinates * self._drawn_scale(math.log(self.rescale_coords))
        return torch.cat(self._get_pos_embed_from_coords(coordinates), dim=-1)

    def _coordinates(self, rows: int, columns: int) -> Tensor:
        device = self.periods.device
        if (key := (rows, columns, device)) not in self._placed:
            coordinates = make_coords_dinov3(rows, columns, self.normalize_coords, self.grid_indexing, self.grid_offset)
            self._placed[key] = coordinates.to(device)
        return self._placed[key]

    def _drawn_scale(self, most: float) -> float:
        """The factor by which timm would multiply, from the seed or else from the global CPU generator, as it does."""
        with torch.random.fork_rng(devices=[], enabled=self.next_seed is not None):
            if self.next_seed is not None:
                torch.default_generator.manual_seed(self.next_seed)
                self.next_seed = None
            return float(torch.empty(1).uniform_(-most, most).exp())


class PatchProduct(nn.Conv2d):
    """A convolution whose stride is its kernel, computed as the one matrix product over patches that it is.

    Weight and bias are the convolution's. On the CPU that saves the reordering of both for oneDNN.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> [B, D, H / p, W / p]; pixels beyond the last whole patch are dropped."""
        p, q = self.kernel_size
        return _patch_product(images, p, q, self.weight, self.bias)


class StandardisingProduct(PatchProduct):
    """The same, of images whose channels are first brought to zero mean and unit deviation, each image by itself.

    Whatever mean and deviation the images were normalised with has no effect then. A constant channel becomes zero.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> [B, D, H / p, W / p]."""
        p, q = self.kernel_size
        return _patch_product(standardised(images), p, q, self.weight, self.bias)


def standardised(images: Tensor) -> Tensor:
    """Bring each channel of each image [B, C, H, W] to zero mean and unit deviation."""
    # The addend of the variance, of values in [-1, 1], is that of half a grey level.
    return torch.nn.functional.layer_norm(images, images.shape[-2:], eps=1e-5)


def patch_pixels(images: Tensor, p: int, q: int) -> Tensor:
    """Images [B, C, H, W] -> the pixels of their patches of p x q, [B, H / p, W / q, C p q], channel by channel."""
    b, c, h, w = images.shape
    patches = images[:, :, : h // p * p, : w // q * q].reshape(b, c, h // p, p, w // q, q).permute(0, 2, 4, 1, 3, 5)
    return patches.flatten(3)


def _patch_product(images: Tensor, p: int, q: int, weight: Tensor, bias: Tensor | None) -> Tensor:
    y = torch.nn.functional.linear(patch_pixels(images, p, q), weight.flatten(1), bias)
    return y.permute(0, 3, 1, 2)


RopeTables = tuple[Tensor, Tensor]
CompiledBlock = Callable[[EvaBlock, Tensor, "RopeTables | None", bool], Tensor]

#: Tokens up to which products are faster than torch's fused attention on a CPU, and scores take little memory.
_FEW_TOKENS = 128


def rope_tables(embed: Tensor, num_prefix_tokens: int) -> RopeTables:
    """Cosines and signed sines, both [T, d], of timm's table ``embed`` [N, 2d] (sines, then cosines).

    Prefix tokens have the cosine 1 and the sine 0, which leaves them as they are; the sines of a head's first half
    are negated: ``x cos + flip(x) sin`` is then the rotation, flip exchanging the halves.
    """
    sin, cos = embed.chunk(2, dim=-1)
    first, second = sin.chunk(2, dim=-1)
    signed = torch.cat([-first, second], dim=-1)
    ahead = (num_prefix_tokens, cos.shape[-1])
    return torch.cat([cos.new_ones(ahead), cos]), torch.cat([signed.new_zeros(ahead), signed])


def run_block(block: EvaBlock, x: Tensor, rope: RopeTables | None, causal: bool) -> Tensor:
    """What ``block`` makes of x [B, T, D] where nothing is dropped, without a mask but the causal one."""
    attention = block.attn
    x = x + _scaled(_attend(attention, _normed(x, block.norm1), rope, causal), block.gamma_1)
    return x + _scaled(_mlp(cast("Mlp | GluMlp", block.mlp), _normed(x, block.norm2)), block.gamma_2)


def compile_block() -> CompiledBlock:
    """``run_block`` compiled: one graph for all blocks of a model, as their weights are arguments of the graph."""
    return cast(CompiledBlock, torch.compile(run_block, fullgraph=True, dynamic=False))


def can_compile(block: EvaBlock) -> bool:
    """Whether ``run_block`` is all that ``block`` does: with stochastic depth or dropout it is not.

    Their draws would come from another generator than without compilation, and results depend on it.
    """
    dropping = [module.p for module in block.modules() if isinstance(module, nn.Dropout)]
    return not any(dropping) and isinstance(block.drop_path1, nn.Identity)


def _attend(attention: AttentionRope, x: Tensor, rope: RopeTables | None, causal: bool) -> Tensor:
    qkv = _linear(x, attention.qkv).unflatten(-1, (3, attention.num_heads, attention.head_dim))
    q, k, v = qkv.unbind(2)  # each [B, T, H, d]
    q, k = _normed(q, attention.q_norm), _normed(k, attention.k_norm)
    if rope is not None:
        q, k = (_rotated(part, rope).to(v.dtype) for part in (q, k))
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    if x.device.type == "cpu" and v.dtype == torch.float32 and x.shape[1] <= _FEW_TOKENS:
        mixed = _attended_by_products(q, k, v, causal)
    else:
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return _linear(mixed.transpose(1, 2).flatten(2), attention.proj)


def _attended_by_products(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """torch's attention from plain products; its scores [B, H, T, T] are kept for the backward pass."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if causal:
        place = torch.arange(q.shape[-2], device=q.device)
        scores = scores.masked_fill(place[None] > place[:, None], float("-inf"))
    return scores.softmax(-1) @ v


def _rotated(x: Tensor, rope: RopeTables) -> Tensor:
    cos, sin = (table[:, None] for table in rope)
    flipped = x.unflatten(-1, (2, -1)).flip(-2).flatten(-2)
    return x * cos + flipped * sin


def _normed(x: Tensor, norm: nn.Module) -> Tensor:
    """LayerNorm, in fp32 at least as torch computes it: the mean first, then the mean square of what is left."""
    if isinstance(norm, nn.Identity):
        return x
    layer = cast(nn.LayerNorm, norm)
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    centred = exact - exact.mean(-1, keepdim=True)
    y = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + layer.eps)
    if layer.weight is not None:
        y = y * layer.weight
    if layer.bias is not None:
        y = y + layer.bias
    return y.to(x.dtype)


def _mlp(mlp: Mlp | GluMlp, x: Tensor) -> Tensor:
    hidden = _linear(x, cast(nn.Linear, mlp.fc1))
    if isinstance(mlp, GluMlp):
        gate, value = hidden.chunk(2, dim=-1)
        return _linear(F.silu(gate) * value, cast(nn.Linear, mlp.fc2))
    return _linear(F.gelu(hidden), cast(nn.Linear, mlp.fc2))


def _linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """The product, and the bias after it: where the next kernel adds it, it costs nothing. Under autocast both are in
    its number format, as torch's own product with a bias is."""
    y = F.linear(x, layer.weight)
    return y if layer.bias is None else y + layer.bias.to(y.dtype)


def _scaled(x: Tensor, gamma: Any) -> Tensor:
    return x if gamma is None else x * gamma
