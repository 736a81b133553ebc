"""A backbone of a given architecture with fresh weights."""

from __future__ import annotations

import torch
from torch import nn

from nepa_scale.config.ladder import Architecture, num_patches
from nepa_scale.config.learning_rate import WidthScaling
from nepa_scale.models.nepa_vit import NepaViT


def build_backbone(
    arch: Architecture,
    image_size: int,
    *,
    layer_scale_init: float = 1e-5,
    xavier_init: bool = False,
    rope_rescale: float | None = 2.0,
    drop_path_rate: float = 0.0,
    dynamic_img_size: bool = False,
    standardise: bool = False,
) -> NepaViT:
    """Return a causal, headless backbone of ``arch`` for square images, initialised as the authors do.

    ``xavier_init`` replaces those weights (see ``initialise_xavier``). ``dynamic_img_size``: images of any whole
    number of patches are taken, each with the positions of its own grid. ``standardise``: see ``NepaViT``.
    Raises ``UserError`` when ``image_size`` is not a multiple of the patch size.
    """
    num_patches(arch, image_size)
    backbone = NepaViT(
        img_size=image_size,
        patch_size=arch.patch_size,
        in_chans=arch.in_chans,
        embed_dim=arch.embed_dim,
        depth=arch.depth,
        num_heads=arch.num_heads,
        mlp=arch.mlp,
        mlp_hidden=arch.mlp_hidden,
        qk_norm=arch.qk_norm,
        init_values=layer_scale_init if arch.layer_scale else None,
        pos_embed=arch.pos_embed,
        class_token=arch.class_token,
        rope_rescale=rope_rescale,
        drop_path_rate=drop_path_rate,
        dynamic_img_size=dynamic_img_size,
        standardise=standardise,
    )
    if xavier_init:
        initialise_xavier(backbone)
    return backbone


def initialise_xavier(backbone: NepaViT) -> None:
    """Draw the weights of the blocks and of the patch convolution Xavier-uniform, as MAE does (arXiv 2111.06377).

    The authors' fixed std of 0.02 fits widths of 768 and more. At width 64 it makes every layer's output several
    times smaller, and training stands still for its first hundreds of steps.
    """
    nn.init.xavier_uniform_(backbone.patch_embed.proj.weight.flatten(1))
    for module in backbone.blocks.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)


@torch.no_grad()
def scale_initial_weights(backbone: NepaViT, scaling: WidthScaling) -> None:
    """Give fresh weights the size that ``mup`` wants at this width; the draws stay the same."""
    for name, parameter in backbone.named_parameters():
        factor = scaling.initial(name, parameter.shape)
        if factor != 1.0:
            parameter.mul_(factor)
