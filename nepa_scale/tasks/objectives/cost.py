"""What each objective adds to the cost of the backbone: parameters, FLOPs and memory of its head and its loss.

None of the parameters is counted as N, the backbone's. Free of torch.
"""

from __future__ import annotations

from nepa_scale.config.ladder import num_patches, num_tokens
from nepa_scale.config.registry import HeadCost
from nepa_scale.config.schema import RunConfig

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
