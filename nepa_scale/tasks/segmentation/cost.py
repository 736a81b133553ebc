"""The layers of the segmentation heads and what they cost: the heads are built from these lists. Free of torch."""

from __future__ import annotations

from typing import NamedTuple

from nepa_scale.config.registry import HeadCost
from nepa_scale.config.schema import RunConfig

POOL_SCALES = (1, 2, 3, 6)
NUM_LEVELS = 4
#: Bytes that the metrics' libraries take: torchmetrics, and through it matplotlib and scipy.
METRICS_LIBRARIES = 92 * 2**20


class Convolution(NamedTuple):
    """A convolution with its output's ``side``, in cells; ``norm``: GroupNorm and ReLU follow, else it has a bias."""

    inputs: int
    outputs: int
    kernel: int
    side: int
    norm: bool = True

    @property
    def params(self) -> int:
        """Weights, and two parameters of a norm's or one of a bias's for each output."""
        return self.inputs * self.outputs * self.kernel**2 + (2 if self.norm else 1) * self.outputs

    @property
    def flops(self) -> int:
        """FLOPs on one image."""
        return 2 * self.inputs * self.outputs * self.kernel**2 * self.side**2

    @property
    def kept(self) -> int:
        """Elements autograd keeps of one image: the input and, where a norm follows, the output."""
        return self.side**2 * (self.inputs + (self.outputs if self.norm else 0))


class UPerNetLayers(NamedTuple):
    """The convolutions of UPerNet by their parts; ``scales``: of each pyramid level, relative to the patch grid."""

    scales: tuple[float, ...]
    doublings: list[list[Convolution]]
    laterals: list[Convolution]
    smooth: list[Convolution]
    pooled: list[Convolution]
    bottleneck: Convolution
    fuse: Convolution
    classifier: Convolution

    @property
    def convolutions(self) -> list[Convolution]:
        """All of them."""
        doublings = [layer for level in self.doublings for layer in level]
        last = [self.bottleneck, self.fuse, self.classifier]
        return [*doublings, *self.laterals, *self.smooth, *self.pooled, *last]

    @property
    def params(self) -> int:
        """Parameters, with those of the norm between two doublings."""
        norms = sum(2 * level[0].outputs for level in self.doublings if len(level) > 1)
        return norms + sum(layer.params for layer in self.convolutions)

    @property
    def flops(self) -> int:
        """Forward FLOPs on one image."""
        return sum(layer.flops for layer in self.convolutions)


def pyramid_scales(patch_size: int) -> tuple[float, ...]:
    """Factors that bring a patch grid to strides of about 4, 8, 16 and 32 pixels, as UPerNet expects."""
    finest = 4.0 if patch_size >= 12 else 2.0 if patch_size >= 6 else 1.0
    return tuple(finest / 2**level for level in range(NUM_LEVELS))


def upernet_layers(width: int, channels: int, classes: int, patch_size: int, *, grid: int = 1) -> UPerNetLayers:
    """The layers of UPerNet on maps of ``grid`` x ``grid`` cells; the number of cells decides the cost alone.

    A doubling is a transposed convolution: each of its inputs meets 2 x 2 weights, so it counts at its input's side.
    """
    scales = pyramid_scales(patch_size)
    counts = [{4.0: 2, 2.0: 1}.get(scale, 0) for scale in scales]
    sides = [int(grid * scale) if scale >= 1 else max(1, int(grid * scale)) for scale in scales]
    return UPerNetLayers(
        scales,
        [[Convolution(width, width, 2, grid * 2**each, norm=False) for each in range(count)] for count in counts],
        laterals=[Convolution(width, channels, 1, side) for side in sides[:-1]],
        smooth=[Convolution(channels, channels, 3, side) for side in sides[:-1]],
        pooled=[Convolution(width, channels, 1, side) for side in POOL_SCALES],
        bottleneck=Convolution(width + len(POOL_SCALES) * channels, channels, 3, sides[-1]),
        fuse=Convolution(NUM_LEVELS * channels, channels, 3, sides[0]),
        classifier=Convolution(channels, classes, 1, sides[0], norm=False),
    )


def fcn_layers(width: int, channels: int, classes: int, *, grid: int = 1) -> tuple[Convolution, Convolution]:
    """The convolution and the classifier of the auxiliary head on maps of ``grid`` x ``grid`` cells."""
    return Convolution(width, channels, 3, grid), Convolution(channels, classes, 1, grid, norm=False)


def segment_heads(config: RunConfig, classes: int) -> HeadCost:
    """UPerNet and, if there is one, the auxiliary head.

    Autograd keeps what ``Convolution.kept`` says, and the scores of every pixel in fp32, twice while their gradient is
    made. Before the blocks' backward pass comes that of one head's scores, with a gradient as large as they are.
    """
    section, patch_size = config.segment, config.model.patch_size
    width, grid = config.model.architecture().embed_dim, config.backbone_image_size("segment") // patch_size
    upernet = upernet_layers(width, section.channels, classes, patch_size, grid=grid)
    params, flops, kept = upernet.params, upernet.flops, sum(layer.kept for layer in upernet.convolutions)
    scores = classes * section.image_size**2
    if section.aux_weight:
        convolution, classifier = fcn_layers(width, section.aux_channels, classes, grid=grid)
        params, flops = params + convolution.params + classifier.params, flops + convolution.flops + classifier.flops
        kept += convolution.kept
    return HeadCost(
        params,
        flops,
        kept=kept,
        kept_fp32=2 * (2 if section.aux_weight else 1) * scores,
        working_fp32=scores,
        libraries=METRICS_LIBRARIES,
    )
