"""What a task adds to the cost of the backbone: parameters, FLOPs and memory of its head. Free of torch.

Segmentation's head and the objectives of pre-training have files of their own, ``segmentation.cost`` and
``objectives.cost``.
"""

from __future__ import annotations

from nepa_scale.config.ladder import num_patches, probed_layers
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
