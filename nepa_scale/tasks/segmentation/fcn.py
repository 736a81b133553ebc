"""The auxiliary head of segmentation: one convolution on a block output, used in training alone.

Source: mmsegmentation's ``FCNHead`` with one convolution (Long et al., arXiv 1411.4038), GroupNorm as in UPerNet.
"""

from __future__ import annotations

from torch import Tensor, nn

from nepa_scale.tasks.segmentation.upernet import convolution, initialise


class FCNHead(nn.Sequential):
    """One map [B, D, h, w] -> class scores [B, C, h, w]."""

    def __init__(self, width: int, channels: int, num_classes: int, dropout: float) -> None:
        super().__init__(
            convolution(width, channels, 3),
            nn.Dropout2d(dropout),
            nn.Conv2d(channels, num_classes, 1),
        )
        self.apply(initialise)

    def forward(self, feature: Tensor) -> Tensor:
        """Scores before up-sampling to the image's size."""
        scores: Tensor = super().forward(feature)
        return scores
