"""The heads of segmentation, built from the layers that ``costs.py`` lists.

UPerNet for a plain vision transformer is a feature pyramid on four block outputs and the UPerNet head: Xiao et al.,
"Unified Perceptual Parsing for Scene Understanding", arXiv 1807.10221, with the pyramid of MAE's and BEiT's
segmentation models (transposed convolutions up, max pooling down). GroupNorm takes the place of synchronised
BatchNorm, so a result depends neither on the micro-batch size nor on the number of devices. Dropout of whole channels
before the classifier is mmsegmentation's. The auxiliary head is mmsegmentation's ``FCNHead`` with one convolution
(Long et al., arXiv 1411.4038); it is used in training alone.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nepa_scale.tasks.costs import POOL_SCALES, Convolution, fcn_layers, upernet_layers


class UPerNet(nn.Module):
    """Four maps [B, D, h, w] of one resolution -> class scores [B, C, H, W] at the finest pyramid level."""

    def __init__(self, width: int, channels: int, num_classes: int, patch_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        layers = upernet_layers(width, channels, num_classes, patch_size)
        self.pyramid = nn.ModuleList(_rescale(width, scale) for scale in layers.scales)
        self.laterals = nn.ModuleList(map(_convolution, layers.laterals))
        self.smooth = nn.ModuleList(map(_convolution, layers.smooth))
        self.pooled = nn.ModuleList(map(_convolution, layers.pooled))
        self.bottleneck = _convolution(layers.bottleneck)
        self.fuse = _convolution(layers.fuse)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = _convolution(layers.classifier)
        self.apply(_initialise)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Scores before the final up-sampling to the image's size."""
        levels = [rescale(feature) for rescale, feature in zip(self.pyramid, features, strict=True)]
        maps = [lateral(level) for lateral, level in zip(self.laterals, levels, strict=False)]
        maps.append(self._pool_pyramid(levels[-1]))
        for index in range(len(maps) - 2, -1, -1):
            maps[index] = maps[index] + _resize(maps[index + 1], maps[index])
        smoothed = [smooth(item) for smooth, item in zip(self.smooth, maps, strict=False)] + [maps[-1]]
        fused = torch.cat([_resize(item, smoothed[0]) for item in smoothed], dim=1)
        scores: Tensor = self.classifier(self.dropout(self.fuse(fused)))
        return scores

    def _pool_pyramid(self, coarsest: Tensor) -> Tensor:
        pooled = [
            _resize(conv(F.adaptive_avg_pool2d(coarsest, size)), coarsest)
            for size, conv in zip(POOL_SCALES, self.pooled, strict=True)
        ]
        joined: Tensor = self.bottleneck(torch.cat([coarsest, *pooled], dim=1))
        return joined


def _rescale(width: int, scale: float) -> nn.Module:
    if scale == 4:
        return nn.Sequential(_double(width), nn.GroupNorm(1, width), nn.GELU(), _double(width))
    if scale == 2:
        return _double(width)
    if scale == 1:
        return nn.Identity()
    return _Shrink(round(1 / scale))


class _Shrink(nn.Module):
    """Max pooling by a whole factor that leaves at least one cell."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_max_pool2d(x, [max(1, side // self.factor) for side in x.shape[-2:]])


def _double(width: int) -> nn.Module:
    return nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)


def _convolution(layer: Convolution) -> nn.Module:
    """The layer, which keeps the size of its map, and GroupNorm and ReLU where these follow it."""
    padding, norm = layer.kernel // 2, layer.norm
    convolution = nn.Conv2d(layer.inputs, layer.outputs, layer.kernel, padding=padding, bias=not norm)
    groups = math.gcd(32, max(1, layer.outputs // 4))
    return nn.Sequential(convolution, nn.GroupNorm(groups, layer.outputs), nn.ReLU()) if norm else convolution


def _resize(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _initialise(module: nn.Module) -> None:
    """Draw a convolution's weights after He et al. (arXiv 1502.01852), with zero bias."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class FCNHead(nn.Sequential):
    """One map [B, D, h, w] -> class scores [B, C, h, w], before up-sampling to the image's size."""

    def __init__(self, width: int, channels: int, num_classes: int, dropout: float) -> None:
        convolution, classifier = map(_convolution, fcn_layers(width, channels, num_classes))
        super().__init__(convolution, nn.Dropout2d(dropout), classifier)
        self.apply(_initialise)
