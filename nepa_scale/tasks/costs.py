"""What tasks and objectives of pre-training add to the backbone's cost: parameters, FLOPs and memory of their heads.

None of the parameters is counted as N, the backbone's. The heads of segmentation are built from the lists of layers
below (``upernet.py``). Free of torch.
"""

from __future__ import annotations

from typing import NamedTuple

from nepa_scale.config.ladder import num_patches, num_tokens, probed_layers
from nepa_scale.config.registry import HeadCost
from nepa_scale.config.schema import RunConfig

#: A probe's heads are each trained at these multiples of the base learning rate and reported at the best one, as in
#: DINOv2 (arXiv 2304.07193): how large a rate fits depends on the layer and on what the head reads of it.
RATE_FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)


def linear_head(config: RunConfig, classes: int) -> HeadCost:
    """A linear layer on one vector for each image."""
    width = config.model.architecture().embed_dim
    return HeadCost(classes * (width + 1), 2 * width * classes, kept_fp32=3 * (width + classes))


def normed_linear_head(config: RunConfig, classes: int) -> HeadCost:
    """Classification: a linear layer, with a norm before it where it reads the mean of the patches."""
    linear = linear_head(config, classes)
    norm = 2 * config.model.architecture().embed_dim if config.classify.pool == "mean" else 0
    return HeadCost(norm + linear.params, linear.flops, kept_fp32=linear.kept_fp32)


def probe_heads(config: RunConfig, classes: int) -> HeadCost:
    """A probe's heads at all rates.

    Two linear heads for each layer; an attentive one adds its query, and keys and values of N patches with one row
    of scores: 4 N D^2 + 4 N D.
    """
    arch, section = config.model.architecture(), config.probe
    width, patches = arch.embed_dim, num_patches(arch, section.image_size)
    layers, rates = len(probed_layers(section.layers, arch.depth)), len(RATE_FACTORS)
    linear = linear_head(config, classes)
    params, flops, kept = 2 * linear.params, 2 * linear.flops, 2 * (width + 3 * rates * classes)
    if section.attentive:
        params += linear.params + 2 * width * width + width
        flops += linear.flops + 4 * patches * width * (width + 1)
        kept += 3 * patches * width
    return HeadCost(layers * rates * params, layers * rates * flops, kept_fp32=layers * kept)


#: Of SIGReg: the directions of one step, drawn anew at each, so that few at a time do, and the places at which
#: characteristic functions are compared.
SLICES, NODES = 64, 17


def embedding_loss(config: RunConfig) -> HeadCost:
    """Next-embedding prediction: a mask token if there is one, and a layer for each embedding beyond the next one.

    The loss keeps two fp32 predictions and a target of unit length for each token; InfoNCE the similarities of all
    pairs besides, SIGReg the projections at each of its places.
    """
    section, arch = config.pretrain, config.model.architecture()
    width, patches = arch.embed_dim, num_patches(arch, section.image_size)
    tokens, further = num_tokens(arch, section.image_size), section.horizon - 1
    pairs = sum((tokens - k) ** 2 for k in range(1, section.horizon + 1)) if section.shift else tokens**2
    pairs *= section.distance == "infonce"
    sliced = (2 * patches - section.idle_tokens) * (section.sigreg > 0)  # embeddings and outputs
    return HeadCost(
        params=width * (section.mask_ratio > 0) + further * (width + 1) * width,
        flops=2 * width * ((tokens - 1) * further * width + pairs + sliced * SLICES),
        kept=further * patches * width,
        kept_fp32=3 * patches * width * section.horizon + 2 * pairs + 3 * sliced * SLICES * NODES,
    )


def pixel_head(config: RunConfig) -> HeadCost:
    """Next pixels: a linear layer at each position that has a next patch."""
    arch = config.model.architecture()
    return _pixels(config, num_tokens(arch, config.pretrain.image_size) - 1)


def masked_pixel_head(config: RunConfig) -> HeadCost:
    """Masked pixels: a linear layer at each patch, and the mask token."""
    arch = config.model.architecture()
    return _pixels(config, num_patches(arch, config.pretrain.image_size), token=arch.embed_dim)


def _pixels(config: RunConfig, positions: int, *, token: int = 0) -> HeadCost:
    """A linear layer from D channels to the C p p pixels of a patch at so many ``positions``, and its squared error."""
    arch = config.model.architecture()
    width, pixels = arch.embed_dim, arch.in_chans * arch.patch_size**2
    return HeadCost(
        params=(width + 1) * pixels + token,
        flops=2 * positions * width * pixels,
        kept=positions * width,
        kept_fp32=3 * positions * pixels,
    )


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
