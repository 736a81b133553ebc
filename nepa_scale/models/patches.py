"""How the backbone reads patches: their embedding as one matrix product, and their positions by a seeded 2-D RoPE."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from timm.layers import RotaryEmbeddingDinoV3
from timm.layers.pos_embed_sincos import make_coords_dinov3
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
